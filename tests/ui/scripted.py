"""Models and a cache of them that say what a test tells them to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from distiller.chat import ChatRequest
from distiller.errors import ModelError
from distiller.schema import Completion, Message


class ScriptedModel:
    """Says its pieces; `waits_for` holds each one back until the other side has said as much."""

    def __init__(self, pieces: list[str], said: dict[str, int], me: str, waits_for: str | None) -> None:
        self.pieces, self.said, self.me, self.waits_for = pieces, said, me, waits_for

    async def stream(self, request: ChatRequest) -> AsyncGenerator[str | Completion, None]:
        for number, piece in enumerate(self.pieces):
            while self.waits_for and self.said.get(self.waits_for, 0) <= number:
                await asyncio.sleep(0.001)
            yield piece
            self.said[self.me] = number + 1
        yield Completion(text="".join(self.pieces), completion_tokens=len(self.pieces), ttft_s=0.1, latency_s=0.2)


class ScriptedCache:
    def __init__(self, models: dict[str, ScriptedModel]) -> None:
        self.models, self.seats = models, asyncio.Semaphore(1)
        self.asked: list[str] = []

    @asynccontextmanager
    async def lease(self, name: str) -> AsyncIterator[Any]:
        if name not in self.models:
            raise ModelError(f"{name} cannot be opened.")
        cache = self

        class Opened:
            model = cache.models[name]

            async def messages(self, past: list[Any], query: str) -> list[Any]:
                cache.asked.append(query)
                return [*past, Message(role="user", content=query)]

        yield Opened()
