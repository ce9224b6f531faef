"""Two contestants answer at the same time, without Gradio and without real models."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from tests.ui.scripted import ScriptedCache, ScriptedModel
from ui.exchange import MAX_CHARACTERS, Transcript, answer_both, history_of, problem_with
from ui.models import ModelCache


def talk(cache: ScriptedCache, names: tuple[str, str], transcript: Transcript, query: str) -> int:
    async def run() -> int:
        count = 0
        async with asyncio.timeout(20):
            async for _ in answer_both(cast(ModelCache, cache), names, transcript, query):
                count += 1
        return count

    return asyncio.run(run())


def test_neither_side_waits_for_the_other() -> None:
    said: dict[str, int] = {}
    # Each piece of the left one comes after the same piece of the right one: one after the other never ends.
    left = ScriptedModel(["a ", "b ", "c"], said, "left", waits_for="right")
    right = ScriptedModel(["x ", "y ", "z"], said, "right", waits_for=None)
    transcript = Transcript()
    talk(ScriptedCache({"left": left, "right": right}), ("left", "right"), transcript, "Hello?")
    assert [side[-1].reply for side in (transcript.left, transcript.right)] == ["a b c", "x y z"]
    assert {side[-1].state for side in (transcript.left, transcript.right)} == {"answered"}


def test_a_failed_side_keeps_its_words_and_the_question_and_leaves_the_other_its_reply() -> None:
    right = ScriptedModel(["fine"], {}, "right", waits_for=None)
    transcript = Transcript()
    talk(ScriptedCache({"right": right}), ("absent", "right"), transcript, "Hello?")
    assert transcript.left[-1].error == "absent cannot be opened."
    assert transcript.right[-1].reply == "fine"
    assert history_of(transcript.left) == []
    assert [message.content for message in history_of(transcript.right)] == ["Hello?", "fine"]


@pytest.mark.parametrize("query", ["", "  \n", "x" * (MAX_CHARACTERS + 1)])
def test_what_cannot_be_sent_is_said_in_words(query: str) -> None:
    assert problem_with(query)
    assert problem_with("x" * MAX_CHARACTERS) == ""
