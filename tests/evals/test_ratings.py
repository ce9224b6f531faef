"""Ratings: hand-computed boards, evalica and simulated truth as referees, and an order that does not matter."""

from __future__ import annotations

import math

import evalica
import numpy as np
import pandas as pd
import pytest

from distiller.errors import DataError
from evals.outliers import outlier_visitors, without_visitors
from evals.ratings import ELO_SCALE, fit_strengths, length_controlled_win_rate, rate, rate_by, win_rate
from evals.statistics import wilson_interval
from tests.evals.voters import simulate

NO_VOTES = pd.DataFrame(columns=["model_a", "model_b", "choice"])


def votes_of(*groups: tuple[str, str, str, int], **columns: object) -> pd.DataFrame:
    """(model_a, model_b, choice, how many) each."""
    rows = [{"model_a": a, "model_b": b, "choice": choice} | columns for a, b, choice, n in groups for _ in range(n)]
    return pd.DataFrame(rows)


def ratings(board: pd.DataFrame) -> dict[str, float]:
    return dict(zip(board["model"], board["rating"], strict=True))


def test_twenty_to_nothing_by_hand() -> None:
    """With the virtual tie 20.5 to 0.5: the ratings differ by 400 · log10(41)."""
    board = rate(votes_of(("x", "y", "a", 12), ("y", "x", "b", 8)))
    half = 200 * math.log10(41)
    assert ratings(board) == pytest.approx({"x": 1000 + half, "y": 1000 - half})
    assert list(board["rank"]) == [1, 2]
    x = board.iloc[0]
    assert (x["wins"], x["losses"], x["win_rate"], x["votes"]) == (20, 0, 1.0, 20)
    # The interval is no point: of 20 such votes up to two could have been lost.
    assert x["low"] == pytest.approx(1000 + 200 * math.log10(18.5 / 2.5))


def test_all_ties_are_even() -> None:
    board = rate(votes_of(("x", "y", "tie", 6), ("y", "x", "both_bad", 4)))
    assert list(board["rating"]) == pytest.approx([1000, 1000])
    assert list(board["rank"]) == [1, 1]
    assert list(board["ties"]) == [6, 6]
    assert list(board["both_bad"]) == [4, 4]


def test_one_vote_says_little() -> None:
    board = rate(votes_of(("x", "y", "b", 1)))
    half = 200 * math.log10(3)
    assert ratings(board) == pytest.approx({"y": 1000 + half, "x": 1000 - half})
    assert list(board["rank"]) == [1, 1]
    assert board.iloc[0]["low"] < 1000 < board.iloc[1]["high"]


def test_no_votes_no_rows() -> None:
    assert rate(NO_VOTES).empty
    assert rate(votes_of(("x", "x", "a", 3))).empty
    assert list(rate(NO_VOTES).columns) == list(rate(votes_of(("x", "y", "a", 1))).columns)


def test_three_models_by_hand() -> None:
    """x beats y as y beats z, and x meets z nowhere: the differences add up. Degrees 1, 2, 1: 3/4 of a tie a pair."""
    board = rate(votes_of(("x", "y", "a", 3), ("x", "y", "b", 1), ("y", "z", "a", 3), ("z", "y", "a", 1)))
    step = 400 * math.log10(3.375 / 1.375)
    assert ratings(board) == pytest.approx({"x": 1000 + step, "y": 1000, "z": 1000 - step})


def test_groups_that_never_met_are_rated_apart() -> None:
    table = votes_of(("p", "q", "a", 3), ("x", "y", "a", 9), ("y", "z", "a", 9))
    board = rate(table)
    assert board.groupby("component")["model"].apply(list).to_dict() == {1: ["x", "y", "z"], 2: ["p", "q"]}
    alone = rate(votes_of(("p", "q", "a", 3)))
    assert board[board["component"] == 2]["rating"].tolist() == pytest.approx(alone["rating"].tolist())
    assert board.groupby("component")["rating"].mean().tolist() == pytest.approx([1000, 1000])
    assert board[board["component"] == 2]["rank"].min() == 1


def test_anchor() -> None:
    table = votes_of(("x", "y", "a", 8), ("x", "y", "b", 4), ("y", "z", "a", 5))
    board, anchored = rate(table), rate(table, anchor="z", anchor_rating=800)
    assert ratings(anchored)["z"] == 800
    shift = ratings(anchored)["x"] - ratings(board)["x"]
    assert ratings(anchored)["y"] == pytest.approx(ratings(board)["y"] + shift)
    with pytest.raises(DataError, match="'w' to anchor at; there are x, y, z"):
        rate(table, anchor="w")


def test_the_order_of_rows_does_not_matter() -> None:
    table = simulate(np.array([0.5, 0.0, -0.5, 0.2]), 400, np.random.default_rng(3))
    table["intent"] = np.where(table["created"] % 3 == 0, "refund", "order")
    table["len_a"], table["len_b"] = table["created"] % 7, table["created"] % 5
    mixed = table.sample(frac=1, random_state=1)
    for board in (rate, lambda t: rate(t, cluster="visitor"), lambda t: rate_by(t, "intent"), outlier_visitors):
        pd.testing.assert_frame_equal(board(table), board(mixed))  # type: ignore[operator]
    assert length_controlled_win_rate(table, "m0", "m1") == length_controlled_win_rate(mixed, "m0", "m1")


def test_sides_do_not_matter() -> None:
    table = simulate(np.array([0.5, 0.0, -0.5]), 200, np.random.default_rng(4))
    turned = table.rename(columns={"model_a": "model_b", "model_b": "model_a"})
    turned["choice"] = turned["choice"].replace({"a": "b", "b": "a"})
    pd.testing.assert_frame_equal(rate(table), rate(turned))


def test_evalica_agrees() -> None:
    """With the virtual ties as weighted votes: three opponents each, so a third of a tie for each of six pairs."""
    table = simulate(np.array([1.0, 0.3, -0.4, -0.9]), 500, np.random.default_rng(5))
    winners = {
        "a": evalica.Winner.X,
        "b": evalica.Winner.Y,
        "tie": evalica.Winner.Draw,
        "both_bad": evalica.Winner.Draw,
    }
    names = [f"m{k}" for k in range(4)]
    pairs = [(a, b) for a in names for b in names if a < b]
    result = evalica.bradley_terry(
        [*table["model_a"], *(a for a, _ in pairs)],
        [*table["model_b"], *(b for _, b in pairs)],
        [*table["choice"].map(winners), *[evalica.Winner.Draw] * len(pairs)],
        weights=[*np.ones(len(table)), *[1 / 3] * len(pairs)],
        tolerance=1e-12,
        limit=10_000,
    )
    referee = np.log(result.scores.astype(float)) * ELO_SCALE
    referee = referee - referee.mean() + 1000
    assert ratings(rate(table)) == pytest.approx(referee.to_dict(), abs=1e-3)


def test_known_strengths_are_recovered() -> None:
    truth = np.array([1.5, 0.5, 0.0, -0.5, -1.5])
    board = rate(simulate(truth, 40_000, np.random.default_rng(6)))
    for k, strength in enumerate(truth):
        assert ratings(board)[f"m{k}"] == pytest.approx(1000 + strength * ELO_SCALE, abs=12)
    assert list(board["model"]) == ["m0", "m1", "m2", "m3", "m4"]
    assert list(board["rank"]) == [1, 2, 3, 4, 5]


def test_visitors_who_always_agree_widen_the_interval() -> None:
    table = votes_of(("x", "y", "a", 60), ("x", "y", "b", 40))
    table["visitor"] = [f"v{k // 20}" for k in range(100)]
    plain, clustered = rate(table).iloc[0], rate(table, cluster="visitor").iloc[0]
    assert clustered["rating"] == plain["rating"]
    assert clustered["high"] - clustered["low"] > 2 * (plain["high"] - plain["low"])
    one = rate(table.assign(visitor="v"), cluster="visitor").iloc[0]
    assert (one["low"], one["high"]) == (plain["low"], plain["high"])


def test_lopsided_boards_converge() -> None:
    wins = np.array([[[0.0, 1e6, 0.5], [0.5, 0.0, 1e6], [0.5, 0.5, 0.0]]])
    strengths = fit_strengths(wins)[0]
    p = 1 / (1 + np.exp(strengths[None, :] - strengths[:, None]))
    games = wins[0] + wins[0].T
    # At the maximum each model has won as often as it was expected to.
    assert (games * p).sum(axis=1) - games.diagonal() / 2 == pytest.approx(wins[0].sum(axis=1), rel=1e-6)


def test_win_rate_is_wilson_s() -> None:
    table = votes_of(
        ("x", "y", "a", 5), ("y", "x", "b", 3), ("y", "x", "a", 2), ("x", "y", "tie", 1), ("y", "x", "both_bad", 1)
    )
    result = win_rate(table, "x", "y")
    assert (result.wins, result.losses, result.ties, result.both_bad) == (8, 2, 1, 1)
    assert result.rate == pytest.approx(9 / 12)
    assert (result.low, result.high) == wilson_interval(9, 12)
    assert win_rate(table, "y", "x").rate == pytest.approx(3 / 12)
    nothing = win_rate(table, "x", "z")
    assert (nothing.rate, nothing.low, nothing.high) == (0.5, 0.0, 1.0)


def test_length_is_taken_out() -> None:
    """x and y are as good as each other; the longer reply wins, and x is the longer one more often."""
    generator = np.random.default_rng(9)
    longer = generator.random(4000) < 0.7
    wins = generator.random(4000) < np.where(longer, 0.8, 0.2)
    table = pd.DataFrame({"model_a": "x", "model_b": "y", "choice": np.where(wins, "a", "b")})
    table["len_a"], table["len_b"] = np.where(longer, 200, 100), np.where(longer, 100, 200)
    rate_, (low, high) = length_controlled_win_rate(table, "x", "y")
    assert win_rate(table, "x", "y").rate == pytest.approx(0.62, abs=0.02)
    assert low < 0.5 < high
    other, (other_low, other_high) = length_controlled_win_rate(table, "y", "x")
    assert (other, other_low, other_high) == pytest.approx((1 - rate_, 1 - high, 1 - low))


def test_equal_lengths_leave_the_win_rate() -> None:
    table = votes_of(("x", "y", "a", 30), ("x", "y", "b", 10), len_a=50, len_b=50)
    rate_, (low, high) = length_controlled_win_rate(table, "x", "y")
    assert rate_ == pytest.approx(30.5 / 41, abs=0.001)
    assert low < rate_ < high
    alone = votes_of(("x", "y", "a", 1), len_a=90, len_b=10)
    assert 0 < length_controlled_win_rate(alone, "x", "y")[0] < 1


def test_a_board_for_each_intent() -> None:
    table = pd.concat(
        [
            votes_of(("x", "y", "a", 4), intent="refund"),
            votes_of(("y", "x", "a", 4), intent="order"),
            votes_of(("x", "y", "a", 1), intent=None),
        ]
    )
    boards = rate_by(table, "intent")
    assert boards[["intent", "model", "wins"]].to_numpy().tolist() == [
        ["order", "y", 4],
        ["order", "x", 0],
        ["refund", "x", 4],
        ["refund", "y", 0],
    ]
    assert rate_by(table.head(0), "intent").empty


def test_what_is_no_vote_is_told_in_words() -> None:
    with pytest.raises(DataError, match="choice 'left'; choices are a, tie, both_bad, b"):
        rate(votes_of(("x", "y", "left", 1)))
    with pytest.raises(DataError, match="no column 'choice'"):
        rate(pd.DataFrame({"model_a": ["x"], "model_b": ["y"]}))
    with pytest.raises(DataError, match="no column 'visitor'"):
        rate(votes_of(("x", "y", "a", 1)), cluster="visitor")


def test_outliers_are_found_and_honest_visitors_are_not() -> None:
    truth = np.array([1.5, 0.5, -0.5, -1.5])
    generator = np.random.default_rng(10)
    honest = simulate(truth, 6000, generator, visitors=300)
    contrary = simulate(-truth, 30, generator, visitors=1).assign(visitor="contrary")
    random = simulate(0 * truth, 100, generator, visitors=1).assign(visitor="random")
    always_left = simulate(truth, 4, generator, visitors=1).assign(visitor="few", choice="b")
    table = pd.concat([honest, contrary, random, always_left])
    found = outlier_visitors(table)
    assert {"contrary", "random"} <= set(found["visitor"])
    assert "few" not in set(found["visitor"])
    # At most one honest visitor in twenty may be named by chance.
    assert len(found) - 2 <= 15
    rest = without_visitors(table, found)
    assert len(rest) == len(table) - found["votes"].sum()
    assert outlier_visitors(table.head(0)).empty


def test_honest_visitors_are_rarely_named() -> None:
    """At most α = 5 of 100 whoever is honest; 40 boards of 100 visitors with a dozen votes each."""
    generator = np.random.default_rng(12)
    named = 0
    for _ in range(40):
        table = simulate(np.array([1.0, 0.0, -1.0]), 1_200, generator, visitors=100)
        named += len(outlier_visitors(table))
    assert 0 < named <= 0.05 * 40 * 100


def test_outlier_evidence_is_fastchat_s_but_for_its_two() -> None:
    """Decided votes alone, as FastChat counts them, with its p, the share of outcomes that are at most as high: its
    product of 1 / (2p), where (2 − P(lost)) for each pair replaces the 2, as E[1/p] is that."""
    others = votes_of(("x", "y", "a", 6_000), ("x", "y", "b", 2_000), ("x", "z", "a", 9_000), ("x", "z", "b", 1_000))
    others["visitor"] = [f"v{k // 4}" for k in range(len(others))]
    mine = votes_of(("x", "y", "b", 3), ("x", "z", "b", 2), ("x", "y", "a", 1), visitor="contrary")
    table = pd.concat([others, mine]).assign(created=np.arange(len(others) + len(mine)))
    lost = {"y": 1 / 4, "z": 1 / 10}  # of x
    product, largest = 1.0, 0.0
    # Votes of one instant are in an order of their own, those of several in that of time.
    for _, vote in mine.iterrows():
        p_lost = lost[vote["model_b"]]
        p = p_lost if vote["choice"] == "b" else 1.0
        fastchat = 1 / (2 * p)
        product *= fastchat * 2 / (2 - p_lost)
        largest = max(largest, product)
    (row,) = outlier_visitors(table).query("visitor == 'contrary'").to_dict("records")
    assert row["evidence"] == pytest.approx(largest, rel=0.01)


def test_outlier_evidence_by_hand() -> None:
    """Others: 7 for x, 1 tie, none for y; with one of each 8/11, 2/11, 1/11. A vote for y has p = 1/11."""
    others = votes_of(("x", "y", "a", 7), ("x", "y", "tie", 1))
    others["visitor"] = [f"v{k}" for k in range(8)]
    contrary = votes_of(("y", "x", "a", 2), visitor="contrary")
    table = pd.concat([others, contrary]).assign(created=1.0)
    (row,) = outlier_visitors(table, min_votes=2, alpha=1).to_dict("records")
    expected = 1 + (2 / 11) / (3 / 11) + 8 / 11  # of 1/p: the share of each outcome over its p
    assert (row["visitor"], row["votes"]) == ("contrary", 2)
    assert row["evidence"] == pytest.approx((11 / expected) ** 2)
