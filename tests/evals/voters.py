"""Invented votes: tables of them, and databases full of them. Tests and benchmarks use them."""

from __future__ import annotations

import numpy as np
import pandas as pd
from sqlalchemy import insert

from evals.database import Database, database_url
from evals.votes_tables import BattleRow, VoteRow


def simulate(strengths: np.ndarray, n: int, generator: np.random.Generator, visitors: int = 50) -> pd.DataFrame:
    """Votes whose mean score is the Bradley–Terry probability; one in five close ones is a tie."""
    names = np.array([f"m{k}" for k in range(len(strengths))])
    a = generator.integers(len(names), size=n)
    b = (a + generator.integers(1, len(names), size=n)) % len(names)
    p = 1 / (1 + np.exp(strengths[b] - strengths[a]))
    tie = 0.2 * np.minimum(p, 1 - p)
    draw = generator.random(n)
    choice = np.where(draw < p - tie, "a", np.where(draw < p, "tie", np.where(draw < p + tie, "both_bad", "b")))
    visitor = [f"v{k}" for k in generator.integers(visitors, size=n)]
    table = {"model_a": names[a], "model_b": names[b], "choice": choice, "visitor": visitor, "created": np.arange(n)}
    return pd.DataFrame(table)


def fill(url: str, votes: pd.DataFrame) -> None:
    """The rows of `simulate` straight into the tables, all of them counted; `intent` may be among the columns."""
    database = Database(database_url(url))
    flags = {"leak": False, "after_reveal": False, "counted": True, "why_not": None, "source": "page"}
    seen = {"turns_seen": 1, "length_a": 5, "length_b": 6}
    battles, rows = [], []
    for k, vote in enumerate(votes.to_dict("records")):
        both = {"visitor": vote["visitor"], "created": float(vote["created"])}
        sides = {"model_a": vote["model_a"], "model_b": vote["model_b"], "label_a": "x", "label_b": "y"}
        opened = {"id": f"b{k}", "mode": "blind", "source": "page", "token_hash": "", "intent": vote.get("intent")}
        battles.append(both | sides | opened)
        rows.append(both | flags | seen | {"battle": f"b{k}", "choice": vote["choice"]})
    with database.writing() as session:
        session.execute(insert(BattleRow), battles)
        session.execute(insert(VoteRow), rows)
    database.close()
