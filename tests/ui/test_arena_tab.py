"""What the arena refuses, by its handlers themselves: nothing of the battle is lost by it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from evals.votes import VoteStore
from tests.ui.requests import request
from ui.access import RateLimit
from ui.arena_tab import Arena
from ui.battle import Battle
from ui.exchange import Exchange, Transcript
from ui.models import UNTRAINED, ModelCache


@pytest.fixture
def arena(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Arena]:
    monkeypatch.setenv("DISTILLER_PUBLIC", "1")
    store = VoteStore(f"sqlite:///{tmp_path / 'arena.sqlite'}")
    yield Arena(ModelCache(), store, RateLimit("questions", times=1))
    store.close()


def only(shown: AsyncIterator[tuple[Any, ...]]) -> str:
    """The notice of the one answer that a refusal gives."""

    async def all_of() -> list[tuple[Any, ...]]:
        return [each async for each in shown]

    [answer] = asyncio.run(all_of())
    return str(answer[5])


def asked(state: Any) -> Transcript:
    return Transcript([Exchange("Hello?", state, "Yes")], [Exchange("Hello?", state, "No")])


def test_a_second_question_waits_for_the_first_one(arena: Arena) -> None:
    battle = Battle("named", (UNTRAINED, UNTRAINED), asked("answering"))
    assert "still answering" in only(arena.send("And?", battle, request()))
    assert [exchange.query for exchange in battle.transcript.left] == ["Hello?"]


def test_a_name_that_a_visitor_is_not_offered_is_not_asked(arena: Arena) -> None:
    battle = Battle("named", ("hf:/etc", UNTRAINED))
    assert "not offered here" in only(arena.send("Hello?", battle, request()))
    assert battle.transcript.left == []


def test_asking_again_too_often_leaves_the_replies_where_they_are(arena: Arena) -> None:
    battle = Battle("named", ("hf:/etc", UNTRAINED), asked("answered"))
    only(arena.send("Hello?", Battle("named", ("hf:/etc", UNTRAINED)), request()))  # the one question of a minute
    assert "the most that one visitor may" in only(arena.again(battle, request()))
    assert [exchange.reply for exchange in battle.transcript.last] == ["Yes", "No"]
