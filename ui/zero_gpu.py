"""ZeroGPU: on such a Space a GPU is lent for the length of one call, to a process of its own.

Elsewhere nothing here does anything. There, a local model is opened in the process that holds the GPU and nowhere
else: the page's own process never touches the GPU. That process is asked through a synchronous generator, the only
kind of streaming that `spaces.GPU` takes.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, TypeVar

from distiller.chat import ChatModel, ChatRequest, OpenOptions, open_model
from distiller.chat.registry import local_source
from distiller.errors import DistillerError
from distiller.schema import Completion

Function = TypeVar("Function", bound=Callable[..., Any])


def gpu(function: Function) -> Function:
    """`function` with a GPU while it runs, where the package `spaces` is; elsewhere itself."""
    try:
        import spaces
    except ImportError:
        return function
    return spaces.GPU(function)


def open_here(name: str, options: OpenOptions) -> ChatModel:
    """As `open_model`; on ZeroGPU a local model is opened where the GPU is, when it is first asked."""
    if _on_zero_gpu() and local_source(name) is not None:
        return ZeroGPUModel(name, options)
    return open_model(name, options)


class ZeroGPUModel(ChatModel):
    def __init__(self, name: str, options: OpenOptions) -> None:
        self.name, self.identity, self._options = name, f"zero-gpu:{local_source(name)}", options

    async def complete(self, requests: Sequence[ChatRequest]) -> list[Completion]:
        answered: list[Completion] = []
        for request in requests:
            answered += [piece async for piece in self.stream(request) if isinstance(piece, Completion)]
        return answered

    async def stream(self, request: ChatRequest) -> AsyncGenerator[str | Completion, None]:
        pieces = stream_on_gpu(self.name, self._options, request)
        try:
            # In a thread, with this event's context: `spaces` finds there whose quota the call is on.
            while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
                if isinstance(piece, DistillerError):
                    raise piece
                yield piece
        finally:
            await asyncio.to_thread(pieces.close)  # type: ignore[attr-defined]


@gpu
def stream_on_gpu(name: str, options: OpenOptions, request: ChatRequest) -> Iterator[str | Completion | DistillerError]:
    """Pieces of the reply, then the whole Completion. What goes wrong is handed out, not raised: an exception
    would cross the processes without its words."""
    loop = asyncio.new_event_loop()
    try:
        pieces = _opened(name, options).stream(request)
        try:
            while True:
                try:
                    piece = loop.run_until_complete(anext(pieces))
                except StopAsyncIteration:
                    return
                yield piece
        finally:
            loop.run_until_complete(pieces.aclose())
    except DistillerError as error:
        yield error
    finally:
        loop.close()


@lru_cache(maxsize=2)
def _opened(name: str, options: OpenOptions) -> ChatModel:
    """Of the process that holds the GPU, which may be kept for the next call."""
    return open_model(name, options)


def _on_zero_gpu() -> bool:
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in {"1", "t", "true"}
