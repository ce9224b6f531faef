"""Stage 1: every turn answered with the teacher's own history; a kill costs no reply twice."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from distiller.answer import CompletionStore
from distiller.chat import OpenOptions, Sampling, open_model
from distiller.generate import (
    Answered,
    converse,
    count_turns,
    write_synthetic,
)
from distiller.job import parse_job
from distiller.prompting import Prompting, student_prompting, teacher_prompting
from distiller.schema import Conversation, read_conversations, read_jsonl, write_jsonl
from tests.conftest import PROJECT
from tests.fakes import FakeOpenAI, reply_to
from tests.tiny import talk, talks

PROMPTING = Prompting("You work for Fernhill.")
MIXED = [*talks(3, turns=3), talk("short", "Just one question?"), *talks(4, turns=2, prefix="d")]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[CompletionStore]:
    with closing(CompletionStore(tmp_path / "completions.sqlite")) as opened:
        yield opened


def run_converse(
    server: FakeOpenAI, store: CompletionStore, data: list[Conversation], *, own_history: bool = True
) -> list[Answered]:
    async def main() -> list[Answered]:
        model = open_model(server.name, OpenOptions(concurrency=4))
        try:
            return await converse(model, data, PROMPTING, Sampling(), store, own_history=own_history)
        finally:
            await model.aclose()

    return asyncio.run(main())


def run_write(server: FakeOpenAI, store: CompletionStore, data: list[Conversation], path: Path) -> list[Conversation]:
    async def main() -> list[Conversation]:
        model = open_model(server.name, OpenOptions(concurrency=4))
        try:
            return await write_synthetic(model, data, PROMPTING, Sampling(), store, path)
        finally:
            await model.aclose()

    return asyncio.run(main())


def expected_replies(conversation: Conversation) -> list[str]:
    """What the fake says when its own replies stand in the history."""
    said = [{"role": "system", "content": PROMPTING.base}]
    replies = []
    for turn in conversation.turns():
        said += [{"role": m.role, "content": m.content} for m in turn.context]
        replies.append(reply_to(said))
        said.append({"role": "assistant", "content": replies[-1]})
    return replies


def test_the_teacher_s_own_replies_stand_in_the_history(openai_server: FakeOpenAI, store: CompletionStore) -> None:
    answered = run_converse(openai_server, store, MIXED)
    assert [item.conversation.id for item in answered] == [c.id for c in MIXED]
    assert [item.replies for item in answered] == [expected_replies(c) for c in MIXED]
    assert len(openai_server.requests) == count_turns(MIXED) == 18


def test_the_references_stand_in_the_history_where_asked(openai_server: FakeOpenAI, store: CompletionStore) -> None:
    run_converse(openai_server, store, MIXED, own_history=False)
    histories = [
        [m["content"] for m in body["messages"] if m["role"] == "assistant"] for body in openai_server.requests
    ]
    references = {turn.reference for c in MIXED for turn in c.turns()}
    assert {text for said in histories for text in said} <= references
    assert any(len(said) == 2 for said in histories)


def test_conversations_own_system_prompts_follow_the_job_s(openai_server: FakeOpenAI, store: CompletionStore) -> None:
    run_converse(openai_server, store, [talk("a", "Hi", system="The customer is a member.")])
    system = openai_server.requests[0]["messages"][0]
    assert system == {"role": "system", "content": "You work for Fernhill.\n\nThe customer is a member."}


def test_the_file_holds_the_data_s_order_and_the_references_beside(
    openai_server: FakeOpenAI, store: CompletionStore, tmp_path: Path
) -> None:
    path = tmp_path / "synthetic.jsonl"
    data = [c.model_copy(update={"metadata": {"intent": "x", "facts": [[["30 days"]]]}}) for c in MIXED]
    result = run_write(openai_server, store, data, path)
    stored = read_conversations(path)
    assert stored == result
    assert [c.id for c in stored] == [c.id for c in data]
    for before, after in zip(data, stored, strict=True):
        assert [turn.reference for turn in after.turns()] == expected_replies(before)
        assert after.metadata["references"] == [turn.reference for turn in before.turns()]
        assert after.metadata["policy"] == [""] * len(before.turns())
        assert [turn.query for turn in after.turns()] == [turn.query for turn in before.turns()]
        assert after.metadata["facts"] == [[["30 days"]]]
        assert {c["finish_reason"] for c in after.metadata["completions"]} == {"stop"}


def test_writing_again_asks_nothing_and_changes_nothing(
    openai_server: FakeOpenAI, store: CompletionStore, tmp_path: Path
) -> None:
    path = tmp_path / "synthetic.jsonl"
    first = run_write(openai_server, store, MIXED, path)
    whole = path.read_bytes()
    asked = len(openai_server.requests)
    path.write_bytes(whole[: len(whole) // 2])  # a process was killed while it wrote
    again = run_write(openai_server, store, MIXED, path)
    assert [c.messages for c in again] == [c.messages for c in first]
    assert read_conversations(path) == again
    assert len(openai_server.requests) == asked


WORKER = """
import asyncio, sys
from contextlib import closing
from pathlib import Path
from distiller.answer import CompletionStore
from distiller.chat import OpenOptions, Sampling, open_model
from distiller.generate import write_synthetic
from distiller.prompting import Prompting
from distiller.schema import read_conversations

async def main(name, data, folder):
    model = open_model(name, OpenOptions(concurrency=4))
    with closing(CompletionStore(folder / "completions.sqlite")) as store:
        prompting = Prompting("You work for Fernhill.")
        path = folder / "synthetic.jsonl"
        await write_synthetic(model, read_conversations(data), prompting, Sampling(), store, path)
    await model.aclose()

asyncio.run(main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])))
"""


def test_after_a_kill_no_reply_that_was_received_is_asked_for_again(openai_server: FakeOpenAI, tmp_path: Path) -> None:
    data = talks(20, turns=2)
    write_jsonl(tmp_path / "data.jsonl", data)
    command = [sys.executable, "-c", WORKER, openai_server.name, str(tmp_path / "data.jsonl"), str(tmp_path)]
    openai_server.delay_s = 0.1
    worker = subprocess.Popen(command, cwd=PROJECT)
    deadline = time.monotonic() + 60
    while len(openai_server.answered) < 25 and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(worker.pid, signal.SIGKILL)
    assert worker.wait(10) == -signal.SIGKILL
    with closing(CompletionStore(tmp_path / "completions.sqlite")) as store:
        received = store._database.execute("SELECT count(*) FROM completions").fetchone()[0]
    asked = len(openai_server.requests)
    assert 15 <= received < 40, "the kill came too early or too late to show anything"
    assert asked - received <= 4  # only what was under way
    openai_server.delay_s = 0
    subprocess.run(command, cwd=PROJECT, check=True, timeout=60)
    assert len(openai_server.requests) - asked == 40 - received
    rows = read_jsonl(tmp_path / "synthetic.jsonl")
    assert [row["id"] for row in rows] == [c.id for c in data]
    texts = [[m["content"] for m in row["messages"] if m["role"] == "assistant"] for row in rows]
    assert texts == [expected_replies(c) for c in data]


def test_prompts_of_teacher_and_student(tmp_path: Path) -> None:
    policies = tmp_path / "policies.md"
    policies.write_text("# Shop\n\n## Returns\n- Returns within 30 days.\n\n## Opening hours\n- Open 9 to 5.\n")
    fields: dict[str, Any] = {
        "name": "j",
        "teacher_model": "hf:a",
        "student_model": "hf:b",
        "training_data": "x",
        "validation_data": "y",
        "system_prompt": "Base.",
        "teacher_instructions": "Be brief.",
        "retrieval": {"policies": str(policies), "lines": 1},
    }
    job = parse_job(fields, check_files=False)
    asked = talk("a", "Are you open now?", "Yes.", "Returns: how many days are returns?", system="Own.")
    teacher = teacher_prompting(job)
    [policy] = teacher.reference_policies([asked])
    assert policy == ["- Open 9 to 5.", "- Returns within 30 days."]
    seen = teacher.messages(asked.turns(), ["Yes."], 1, policy, asked.system)
    assert [(m.role, m.content) for m in seen] == [
        ("system", "Base.\n\nOwn.\n\nBe brief."),
        ("user", "Policy:\n- Open 9 to 5.\n\nCustomer: Are you open now?"),
        ("assistant", "Yes."),
        ("user", "Policy:\n- Returns within 30 days.\n\nCustomer: Returns: how many days are returns?"),
    ]
    student = student_prompting(job)
    assert student.reference_policies([asked]) == [["", ""]]
    assert [m.content for m in student.messages(asked.turns(), ["Yes."], 1, ["", ""], asked.system)] == [
        "Base.\n\nOwn.",
        "Are you open now?",
        "Yes.",
        "Returns: how many days are returns?",
    ]
    informed = student_prompting(
        parse_job(fields | {"retrieval": fields["retrieval"] | {"student": True}}, check_files=False)
    )
    assert informed.messages(asked.turns(), ["Yes."], 1, policy, None)[1:] == seen[1:]


def test_a_conversation_as_seen_is_what_was_asked_with_the_replies_put_in() -> None:
    prompting = Prompting("Base.")
    conversation = talk("c", "Q1", "A1", "Q2", "A2")
    seen = prompting.as_seen(conversation, ["P1", "P2"])
    turns = conversation.turns()
    for t, reply in enumerate(("A1", "A2")):
        asked = prompting.messages(turns, ["A1", "A2"], t, ["P1", "P2"], None)
        assert seen.messages[: len(asked)] == asked
        assert seen.messages[len(asked)].content == reply
