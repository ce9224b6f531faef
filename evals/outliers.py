"""Visitors who vote unlike all others: a script that clicks at random, or somebody who works against a model.

FastChat's sequential test (`outlier_detect` in its `elo_analysis.py`; Chiang et al. 2024, arXiv:2403.04132, section
on anomalous users): each vote has a p-value among the votes of others on the same pair, and the product of the
factors 1 / (2p) over a visitor's votes is compared with 1/α. Two things differ here. The 2 is replaced by the
expectation of 1/p, so that the product is a test martingale where there are ties too, and an honest visitor is named
with a probability of at most α (Ville 1939). And a visitor's own votes are not among those of others.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from distiller.errors import DataError
from evals.ratings import SCORES

ALPHA = 0.05
MIN_VOTES = 5
COLUMNS = ("visitor", "votes", "evidence")


def outlier_visitors(votes: pd.DataFrame, *, alpha: float = ALPHA, min_votes: int = MIN_VOTES) -> pd.DataFrame:
    """One row for each visitor whose votes speak against chance, the most striking first.

    `votes` has `model_a`, `model_b`, `choice`, `visitor` and `created`; who cast fewer than `min_votes` is not
    judged. `evidence` is the largest product reached (1: as others vote; from 2/α on a visitor is named: there are
    two tests, of votes too often for the favourite and too often against it).
    """
    missing = {"model_a", "model_b", "choice", "visitor", "created"} - set(votes.columns)
    if missing:
        raise DataError(f"To find outliers the votes need the column {min(missing)!r}.")
    # In the order of time; votes of one instant in an order of their own, so that the rows' does not matter.
    table = votes[(votes["model_a"] != votes["model_b"]) & votes["visitor"].notna()]
    table = table.sort_values(["visitor", "created", "model_a", "model_b", "choice"], ignore_index=True)
    if table.empty:
        return pd.DataFrame(columns=list(COLUMNS))
    against, favour = _log_factors(table)
    visitor, names = pd.factorize(table["visitor"])
    counts = np.bincount(visitor)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    evidence = np.maximum(_peaks(against, visitor, starts), _peaks(favour, visitor, starts))
    report = pd.DataFrame({"visitor": names, "votes": counts, "evidence": np.exp(np.minimum(evidence, 700.0))})
    named = report[(report["votes"] >= min_votes) & (report["evidence"] >= 2 / alpha)]
    return named.sort_values(["evidence", "visitor"], ascending=[False, True], ignore_index=True)


def without_visitors(votes: pd.DataFrame, outliers: pd.DataFrame) -> pd.DataFrame:
    """The votes of all others than `outlier_visitors` named."""
    return votes[~votes["visitor"].isin(outliers["visitor"])]


def _log_factors(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """(votes,) logarithms of (1/p) / E[1/p], for votes that are too low and too high for the pair's favourite."""
    swapped = (table["model_a"] > table["model_b"]).to_numpy()
    score = table["choice"].map(SCORES).to_numpy(float)
    outcome = (2 * np.where(swapped, 1 - score, score)).astype(
        int
    )  # 0, 1, 2: the first in the alphabet lost, tied, won
    first, second = (
        table["model_a"].where(~swapped, table["model_b"]),
        table["model_b"].where(~swapped, table["model_a"]),
    )
    pair = pd.MultiIndex.from_arrays([first, second]).factorize()[0]
    own = pd.MultiIndex.from_arrays([table["visitor"], pair]).factorize()[0]
    others = _tally(pair, outcome)[pair] - _tally(own, outcome)[own]
    # One of each outcome is added: a pair that few have voted on says little.
    shares = (others + 1) / (others.sum(axis=1, keepdims=True) + 3)
    turned = shares[:, 0] > shares[:, 2]
    shares = np.where(turned[:, None], shares[:, ::-1], shares)
    outcome = np.where(turned, 2 - outcome, outcome)
    return _log_factor(shares, outcome), _log_factor(shares[:, ::-1], 2 - outcome)


def _log_factor(shares: np.ndarray, outcome: np.ndarray) -> np.ndarray:
    """p is the share of outcomes that are at most as high; E[1/p] is taken over the outcomes themselves."""
    p = np.cumsum(shares, axis=1)
    expected = (shares / p).sum(axis=1)
    return -np.log(p[np.arange(len(p)), outcome] * expected)


def _tally(group: np.ndarray, outcome: np.ndarray) -> np.ndarray:
    """(groups, 3) how often each outcome came out."""
    return np.bincount(group * 3 + outcome, minlength=3 * (group.max() + 1)).reshape(-1, 3)


def _peaks(factors: np.ndarray, visitor: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """The largest sum of a visitor's first k factors, over k. Rows are in the order of visitors."""
    running = np.cumsum(factors)
    before = (running - factors)[starts]
    return np.maximum.reduceat(running - before[visitor], starts)
