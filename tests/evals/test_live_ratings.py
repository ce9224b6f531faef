"""Votes rated while they come in: never other than the same votes rated afresh, on SQLite and on PostgreSQL."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import text

from evals.leaderboard import with_votes
from evals.live_ratings import LiveRatings, ratings_rows
from evals.ratings import rate
from evals.votes import Only, Reply, Side, VoteStore
from tests.evals.voters import fill, simulate


def cast(
    store: VoteStore, choice: str = "a", *, intent: str | None = None, turns: int = 1, visitor: str = "v", b: str = "y"
) -> None:
    opened = store.open_battle(Side("x"), Side(b), visitor=visitor, intent=intent)
    for _ in range(turns):
        store.add_turn(opened.battle_id, "Hello?", Reply("Yes."), Reply("No."))
    store.vote(opened.battle_id, opened.token, visitor, choice, turns)  # type: ignore[arg-type]


def afresh(store: VoteStore, intent: str | None = None) -> list[dict[str, object]]:
    return ratings_rows(rate(store.votes_table(Only(intent=intent, counted=True)), cluster="visitor"))


def test_new_votes_change_it_and_nothing_else_does(store: VoteStore) -> None:
    live = LiveRatings(store)
    assert live.rows() == []
    cast(store)
    cast(store, intent="refund", turns=2)
    first = live.rows()
    assert {row["model"]: (row["votes"], row["win_rate"]) for row in first} == {"x": (2, 1.0), "y": (2, 0.0)}
    assert live.rows() == first == afresh(store)
    assert [row["votes"] for row in live.rows("refund")] == [1, 1]
    assert [row["votes"] for row in live.rows(turn=2)] == [1, 1]
    assert live.rows(turn=3) == []
    assert [row["model"] for row in live.rows(shown=lambda model: model != "x")] == ["y"]


def test_after_any_history_it_is_what_the_same_votes_give_afresh(store: VoteStore) -> None:
    """Some do not count, models come late, and it is asked now and then."""
    live, generator = LiveRatings(store), np.random.default_rng(0)
    for k in range(60):
        choice = str(generator.choice(["a", "b", "tie", "both_bad"]))
        b = "z" if k > 40 and k % 2 else "y"
        if k % 7 == 0:
            opened = store.open_battle(Side("x"), Side(b), visitor="w", mode="named")
            store.add_turn(opened.battle_id, "Hello?", Reply("Yes."), Reply("No."))
            store.vote(opened.battle_id, opened.token, "w", choice, 1)  # type: ignore[arg-type]
        else:
            cast(store, choice, intent=["refund", None][k % 2], visitor=f"v{k % 9}", b=b)
        if generator.random() < 0.2:
            assert live.rows() == afresh(store)
            assert live.rows("refund") == afresh(store, "refund")
    assert live.rows() == afresh(store)
    notes = live.ratings().notes
    assert "51 votes of 9 visitors; kept apart: 9 cast with the names known." in notes


def test_a_vote_that_is_committed_after_a_later_one_is_not_missed(store: VoteStore) -> None:
    """PostgreSQL numbers a vote before it commits it. Here the numbers are given by hand."""
    for _ in range(3):
        cast(store)
    with store._database.writing() as session:  # 1, 2, 3 → 1, 3, and 2 is still on its way
        late = dict(session.execute(text("SELECT * FROM votes WHERE number = 2")).mappings().one())
        session.execute(text("DELETE FROM votes WHERE number = 2"))
    live = LiveRatings(store)
    assert [row["votes"] for row in live.rows()] == [2, 2]
    with store._database.writing() as session:
        columns = ", ".join(late)
        session.execute(text(f"INSERT INTO votes ({columns}) VALUES ({', '.join(':' + c for c in late)})"), late)
    assert [row["votes"] for row in live.rows()] == [3, 3]
    assert live.rows() == afresh(store)


def test_only_what_is_new_is_read(store: VoteStore, votes_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    table = simulate(np.zeros(2), 1_000, np.random.default_rng(0))
    fill(votes_url, table.replace({"m0": "x", "m1": "y"}))
    live = LiveRatings(store)
    live.rows()
    read: list[int] = []
    votes_table = store.votes_table

    def noted(**more: Any) -> pd.DataFrame:
        found = votes_table(**more)
        read.append(len(found))
        return found

    monkeypatch.setattr(store, "votes_table", noted)
    cast(store)
    assert live.rows()[0]["votes"] == 1_001
    live.rows()
    assert read == [1]


def test_many_who_ask_at_once_see_the_same(store: VoteStore) -> None:
    for k in range(20):
        cast(store, "ab"[k % 2], visitor=f"v{k}")
    live = LiveRatings(store)
    with ThreadPoolExecutor(20) as pool:
        results = list(pool.map(lambda _: live.rows(), range(20)))
    assert all(result == afresh(store) for result in results)


def test_models_on_other_scales_have_no_rating_among_these() -> None:
    table = pd.concat(
        [
            simulate(np.array([0.5, -0.5]), 40, np.random.default_rng(1)),
            pd.DataFrame({"model_a": ["p", "q"], "model_b": ["q", "p"], "choice": ["a", "b"], "visitor": ["v", "w"]}),
        ]
    )
    rows = {row["model"]: row for row in with_votes([], ratings_rows(rate(table, cluster="visitor")))}
    assert rows["m0"]["vote_rank"] == 1
    assert (rows["p"]["rating"], rows["p"]["vote_rank"], rows["p"]["votes"]) == (None, None, 2)
    assert rows["p"]["win_rate_ci"][0] < rows["p"]["win_rate"] == 1.0
