"""Stored completions as a model: `recorded:FILE.jsonl`.

The file holds conversations; a request is answered with the reply that the file gives after the same
messages of customer and tools, whatever the system prompt and the earlier replies were.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

from distiller.chat.base import ChatModel, ChatRequest
from distiller.errors import RequestError
from distiller.schema import Completion, Message, read_conversations, text_hash


class RecordedModel(ChatModel):
    max_batch = 256

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.identity = f"recorded:{text_hash(path.read_text('utf-8'))[:16]}" if path.exists() else name
        self._replies: dict[str, str] = {}
        for conversation in read_conversations(path):
            said: list[Message] = []
            for turn in conversation.turns():
                said.extend(turn.context)
                if turn.reference is not None:
                    self._replies[_key(said)] = turn.reference

    async def complete(self, requests: Sequence[ChatRequest]) -> list[Completion]:
        return [self._answer(request) for request in requests]

    async def stream(self, request: ChatRequest) -> AsyncGenerator[str | Completion, None]:
        completion = self._answer(request)
        yield completion.text
        yield completion

    def _answer(self, request: ChatRequest) -> Completion:
        text = self._replies.get(_key(request.messages))
        if text is None:
            query = next((m.content for m in reversed(request.messages) if m.role == "user"), "")
            raise RequestError(f"{self.name}: holds no reply to {query[:80]!r} in this conversation.")
        return Completion(text=text, finish_reason="stop")


def _key(messages: Sequence[Message]) -> str:
    return text_hash(*(f"{m.role}:{m.content}" for m in messages if m.role in {"user", "tool"}))
