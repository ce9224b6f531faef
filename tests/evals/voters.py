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


def fill(url: str, votes: int) -> None:
    """Straight into the tables."""
    database = Database(database_url(url))
    text = {"visitor": "v", "mode": "blind", "source": "page", "label_a": "x", "label_b": "y", "token_hash": ""}
    battles = [text | {"id": f"b{k}", "created": float(k), "model_a": "x", "model_b": "y"} for k in range(votes)]
    flags = {"leak": False, "after_reveal": False, "counted": True, "why_not": None, "visitor": "v", "source": "page"}
    seen = {"choice": "a", "turns_seen": 1, "length_a": 5, "length_b": 6}
    rows = [flags | seen | {"battle": f"b{k}", "created": float(k)} for k in range(votes)]
    with database.writing() as session:
        session.execute(insert(BattleRow), battles)
        session.execute(insert(VoteRow), rows)
    database.close()
