"""Stored completions as a model."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from distiller.chat import ChatRequest, open_model
from distiller.errors import DataError, RequestError
from distiller.schema import Completion, Message, write_jsonl
from tests.tiny import talk, user


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "stored.jsonl"
    write_jsonl(path, [talk("a", "Hi", "Hello!", "Where?", "There.", system="Old prompt"), talk("b", "Open?")])
    return path


def test_it_answers_by_what_the_customer_said(recording: Path) -> None:
    model = open_model(f"recorded:{recording}")
    said = [
        Message(role="system", content="Another prompt"),
        *user("Hi"),
        Message(role="assistant", content="Another reply"),
        *user("Where?"),
    ]
    requests = [ChatRequest(messages=said), ChatRequest(messages=user("Hi"))]
    assert [c.text for c in asyncio.run(model.complete(requests))] == ["There.", "Hello!"]


@pytest.mark.parametrize("query", ["Where?", "Open?"])
def test_a_reply_it_does_not_hold(recording: Path, query: str) -> None:
    model = open_model(f"recorded:{recording}")
    with pytest.raises(RequestError, match=rf"holds no reply to '{query[:-1]}\?'"):
        asyncio.run(model.complete([ChatRequest(messages=user(query))]))


def test_stream(recording: Path) -> None:
    async def main() -> list[str | Completion]:
        return [item async for item in open_model(f"recorded:{recording}").stream(ChatRequest(messages=user("Hi")))]

    text, completion = asyncio.run(main())
    assert isinstance(completion, Completion)
    assert text == completion.text == "Hello!"


def test_the_identity_is_that_of_the_content(recording: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(recording.read_bytes())
    first = open_model(f"recorded:{recording}").identity
    assert open_model(f"recorded:{copy}").identity == first
    write_jsonl(copy, [talk("a", "Hi", "Hello again!")])
    assert open_model(f"recorded:{copy}").identity != first


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        open_model(f"recorded:{tmp_path / 'absent.jsonl'}")
