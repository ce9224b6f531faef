"""A battle from its first question to its vote, without Gradio: who meets, what is stored, what may be seen when."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from distiller.errors import VoteError
from distiller.job import parse_job
from distiller.runs import Run, open_run_of
from distiller.schema import write_jsonl, write_text
from evals.votes import VoteStore
from tests.tiny import talks
from tests.ui.scripted import ScriptedCache, ScriptedModel
from ui.access import Visitor, claim
from ui.battle import Battle, Customer, begin, record, shared, take_back
from ui.battle import cast as cast_vote
from ui.exchange import answer_both
from ui.models import DEFAULT_TEACHER, SHIPPED_STUDENT, UNTRAINED, ModelCache, blind_pool, draw_pair, offered

POOL = (SHIPPED_STUDENT, DEFAULT_TEACHER)
CUSTOMER = Customer("title", "shop", "test-1", "returns", ("Hello", "And then?"), ("Good day.", "Then it is over."))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[VoteStore]:
    opened = VoteStore(f"sqlite:///{tmp_path / 'arena.sqlite'}")
    yield opened
    opened.close()


def say(battle: Battle, query: str, store: VoteStore, reply: str = "of course.") -> None:
    pair = begin(battle, lambda: POOL)
    models = {name: ScriptedModel(["Yes, ", reply], {}, name, None) for name in pair}

    async def talk() -> None:
        async for _ in answer_both(cast(ModelCache, ScriptedCache(models)), pair, battle.transcript, query):
            assert not battle.open_to_vote or battle.transcript.last[0].state == "answered"

    asyncio.run(talk())
    record(battle, store, "visitor")


def test_one_vote_after_both_have_answered_and_the_names_only_then(store: VoteStore) -> None:
    battle = Battle()
    with pytest.raises(VoteError, match="nothing to vote on"):
        cast_vote(battle, "a", store, "visitor")
    say(battle, "Hello", store)
    assert battle.names() == ("Model A", "Model B")
    assert shared(battle.id, store).pair is None
    cast_vote(battle, "a", store, "visitor")
    assert "Model" not in battle.names()[0]
    with pytest.raises(VoteError):
        cast_vote(battle, "b", store, "visitor")
    table = store.votes_table()
    assert table[["choice", "turns", "counted", "mode"]].values.tolist() == [["a", 1, True, "blind"]]
    assert [table["model_a"][0], table["model_b"][0]] == list(battle.pair or ())
    read = shared(battle.id, store)
    assert read.pair == battle.pair
    assert [exchange.query for exchange in read.transcript.left] == ["Hello"]
    assert not read.open_to_vote


def test_a_reply_that_names_its_model_is_kept_apart(store: VoteStore) -> None:
    battle = Battle()
    say(battle, "Who are you?", store, "I am SmolLM2.")
    cast_vote(battle, "a", store, "visitor")
    assert battle.why_not == "leak"
    assert store.votes_table()["counted"].tolist() == [False]


def test_a_named_battle_is_stored_and_not_rated(store: VoteStore) -> None:
    battle = Battle("named", POOL)
    say(battle, "Hello", store)
    cast_vote(battle, "tie", store, "visitor")
    assert store.votes_table()["why_not"].tolist() == ["named"]


def test_a_replayed_customer_speaks_line_by_line_and_is_compared_as_long_as_he_keeps_to_the_script(
    store: VoteStore,
) -> None:
    battle = Battle(customer=CUSTOMER)
    assert battle.next_line == "Hello"
    say(battle, "Hello", store)
    assert (battle.next_line, battle.reference(0)) == ("And then?", "Good day.")
    take_back(battle)
    assert battle.next_line == "Hello"
    say(battle, "Hello", store)
    say(battle, "Something else", store)
    assert (battle.next_line, battle.reference(1)) == ("And then?", None)
    cast_vote(battle, "b", store, "visitor")
    row = store.votes_table().iloc[0]
    assert (row["data_set"], row["conversation"], row["intent"]) == ("shop", "test-1", "returns")


def make_run(name: str, data: Path, *, complete: bool = True, **more: Any) -> Run:
    value: dict[str, Any] = {
        "name": name,
        "teacher_model": UNTRAINED,
        "student_model": UNTRAINED,
        "hyperparameters": {"loss": "sequence"},
    }
    value |= {"training_data": str(data), "validation_data": str(data), "test_data": str(data)}
    run = open_run_of(parse_job(value | more))
    for contestant in ("student", "baseline"):
        write_text(run.path(contestant, "config.json"), "{}")
    if complete:
        write_text(run.path("manifest.json"), '{"student_sha256": "0123456789abcdef0123"}')
    return run


def test_who_meets_in_blind_battles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert blind_pool() == [*POOL, UNTRAINED]
    write_jsonl(tmp_path / "data.jsonl", talks(3))
    make_run("begun", tmp_path / "data.jsonl", complete=False)
    assert blind_pool() == [*POOL, UNTRAINED]
    run = make_run("shop", tmp_path / "data.jsonl")
    assert blind_pool() == [f"run:{run.id}/{role}" for role in ("teacher", "student", "baseline")]
    pairs = Counter(draw_pair(blind_pool()) for _ in range(300))
    assert len(pairs) == 6  # every two on either side
    assert all(a != b for a, b in pairs)
    # A teacher behind an address takes part only with the key that the owner has set.
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    costly = make_run("costly", tmp_path / "data.jsonl", teacher_model="openai:large@https://models.example/v1")
    assert f"run:{costly.id}/teacher" not in blind_pool()
    assert f"run:{run.id}/student" in blind_pool()
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    assert f"run:{costly.id}/teacher" in blind_pool()


def test_two_untrained_models_never_meet() -> None:
    pool = ["run:a-1/student", "run:a-1/baseline", "run:a-1/untouched", "run:a-1/reference_trained"]
    assert all("run:a-1/student" in draw_pair(pool) for _ in range(100))


def test_a_private_run_is_offered_to_its_visitor_alone(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "data.jsonl", talks(3))
    run = make_run("mine", tmp_path / "data.jsonl")
    visitor, other, owner = Visitor("v", False), Visitor("w", False), Visitor("o", True)
    claim(run, visitor, private=True)
    name = f"run:{run.id}/student"
    assert [name in offered(who) for who in (visitor, other, owner, None)] == [True, False, True, True]
    assert name not in blind_pool()
    claim(run, visitor, private=False)
    assert name in offered(other)
    assert name in blind_pool()
