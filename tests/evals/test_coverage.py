"""Intervals of ratings on simulated boards: over 200 of them the 95% interval holds the truth in 92 to 98 of 100.

What `ratings.rate` says of its intervals is what is measured here.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from evals.ratings import ELO_SCALE, rate
from tests.evals.voters import simulate

BOARDS = 200
RESAMPLES = 300
SPREAD = np.linspace(1.5, -1.5, 10)


def held(board: pd.DataFrame, strengths: np.ndarray, group: str = "") -> list[bool]:
    """Of each model of a group, whether its interval holds its true rating."""
    by_name = board.set_index("model").loc[[f"{group}m{k}" for k in range(len(strengths))]]
    true = 1000 + (strengths - strengths.mean()) * ELO_SCALE
    return list((by_name["low"].to_numpy() <= true) & (true <= by_name["high"].to_numpy()))


@pytest.mark.parametrize(
    ("strengths", "votes", "groups"),
    [
        pytest.param([0.0, 0.0], 100, 3, id="a model against itself"),
        pytest.param([0.0, 0.0], 12, 3, id="a model against itself, twelve votes"),
        pytest.param([1.5, -1.5], 80, 3, id="one is far better"),
        pytest.param([2.0, 1.0, 0.0, -1.0, -2.0], 100, 1, id="lopsided and sparse"),
        pytest.param(list(SPREAD), 135, 1, id="ten models, three votes a pair"),
    ],
)
def test_intervals_hold_the_truth(strengths: list[float], votes: int, groups: int) -> None:
    """Visitors are all alike here, so clustered intervals, which the leaderboard shows, may only be a little wide.

    A board of two models has `groups` that never meet: 200 intervals alone would leave the share to the seed.
    """
    generator, truth = np.random.default_rng(8), np.array(strengths)
    plain: list[bool] = []
    clustered: list[bool] = []
    for _ in range(BOARDS):
        tables = [simulate(truth, votes, generator) for _ in range(groups)]
        named = [
            table.assign(model_a=f"{k}" + table["model_a"], model_b=f"{k}" + table["model_b"])
            for k, table in enumerate(tables)
        ]
        together = pd.concat(named)
        boards = rate(together, resamples=RESAMPLES), rate(together, cluster="visitor", resamples=RESAMPLES)
        for k in range(groups):
            plain += held(boards[0], truth, f"{k}")
            clustered += held(boards[1], truth, f"{k}")
    assert 0.92 <= np.mean(plain) <= 0.98
    assert 0.92 <= np.mean(clustered) <= 0.99


@pytest.mark.parametrize(("visitors", "votes"), [(10, 100), (40, 200)])
def test_visitors_of_different_taste(visitors: int, votes: int) -> None:
    """A model against itself, where each visitor leans to one side: plain intervals hold in far too few, and clustered
    ones in enough, the win rate's as well."""
    generator = np.random.default_rng(5)
    plain: list[bool] = []
    clustered: list[bool] = []
    shares: list[bool] = []
    for _ in range(BOARDS):
        taste = generator.normal(size=(visitors, 2))
        visitor = generator.integers(visitors, size=votes)
        a_wins = generator.random(votes) < 1 / (1 + np.exp(taste[visitor, 1] - taste[visitor, 0]))
        table = pd.DataFrame({"model_a": "m0", "model_b": "m1", "choice": np.where(a_wins, "a", "b")})
        table["visitor"] = visitor
        board = rate(table, cluster="visitor", resamples=RESAMPLES)
        clustered += held(board, np.zeros(2))
        plain += held(rate(table, resamples=RESAMPLES), np.zeros(2))
        shares += list((board["win_low"] <= 0.5) & (board["win_high"] >= 0.5))
    assert np.mean(plain) < 0.85
    assert 0.92 <= np.mean(clustered) <= 0.98
    assert 0.90 <= np.mean(shares) <= 0.98
