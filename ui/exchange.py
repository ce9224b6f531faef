"""One customer, two contestants that answer at the same time. Knows nothing of Gradio.

Two producers each write into an `Exchange` of their own as the text comes; the page reads both a few
times a second, so neither waits for the other and the history is not sent anew with every token. Stop
leaves a mark in the transcript, and the same loop obeys it: what a visitor sees has one writer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Literal, cast

from distiller.chat import ChatRequest, Sampling
from distiller.errors import DistillerError
from distiller.schema import Completion, Message
from ui.models import ModelCache

SAMPLING = Sampling(temperature=0.0, max_tokens=128)
MAX_CHARACTERS = 2_000
UPDATE_S = 0.15  # each update re-sends the conversation


@dataclass
class Exchange:
    """One question to one contestant, and what became of it."""

    query: str
    state: Literal["waiting", "opening", "answering", "answered", "stopped", "failed"] = "waiting"
    reply: str = ""
    error: str = ""
    completion: Completion | None = None
    #: Seconds before the model was asked: a teacher looks policies up first, and its customer waits for that.
    before_s: float = 0.0

    @property
    def running(self) -> bool:
        return self.state in {"waiting", "opening", "answering"}

    @property
    def latency_s(self) -> float | None:
        """From sending to the end of the reply, retrieval included."""
        completion = self.completion
        return completion.latency_s + self.before_s if completion and completion.latency_s else None

    @property
    def ttft_s(self) -> float | None:
        completion = self.completion
        return completion.ttft_s + self.before_s if completion and completion.ttft_s is not None else None

    @property
    def tokens_per_s(self) -> float | None:
        completion, latency = self.completion, self.latency_s
        return (
            completion.completion_tokens / latency if completion and completion.completion_tokens and latency else None
        )


@dataclass
class Transcript:
    """A conversation with two contestants, each with its own side of it. Changed in place, never replaced."""

    left: list[Exchange] = field(default_factory=list)
    right: list[Exchange] = field(default_factory=list)
    #: The visitor wants no more of the replies under way.
    ended: bool = False

    @property
    def last(self) -> list[Exchange]:
        return [side[-1] for side in (self.left, self.right) if side]


def history_of(exchanges: Sequence[Exchange]) -> list[Message]:
    """What a contestant remembers. A question that got no reply was never asked: it can be sent again."""
    messages: list[Message] = []
    for exchange in exchanges:
        if exchange.reply and exchange.state in {"answered", "stopped"}:
            messages.append(Message(role="user", content=exchange.query))
            messages.append(Message(role="assistant", content=exchange.reply))
    return messages


async def answer_both(
    models: ModelCache,
    names: tuple[str, str],
    transcript: Transcript,
    query: str,
    sampling: Sampling = SAMPLING,
) -> AsyncIterator[None]:
    """Asks both contestants; yields whenever the transcript has something new. Closing it stops both."""
    pasts = (history_of(transcript.left), history_of(transcript.right))
    exchanges = (Exchange(query), Exchange(query))
    transcript.left.append(exchanges[0])
    transcript.right.append(exchanges[1])
    transcript.ended = False
    news = asyncio.Event()

    async def talk() -> None:
        try:
            async with models.seats, asyncio.TaskGroup() as producers:
                for name, past, exchange in zip(names, pasts, exchanges, strict=True):
                    producers.create_task(_answer(models, name, past, exchange, sampling, news))
        finally:
            news.set()

    news.set()  # the question itself
    talking = asyncio.create_task(talk())
    shown: tuple[tuple[str, bool], ...] = ()
    try:
        while not talking.done() and not transcript.ended:
            with suppress(TimeoutError):  # else a look at what has changed without a word, and whether it was ended
                await asyncio.wait_for(news.wait(), timeout=UPDATE_S)
            now = tuple((exchange.state, bool(exchange.reply)) for exchange in exchanges)
            if not news.is_set() and now == shown:
                continue
            news.clear()
            yield
            if now == shown:  # more of a text that has begun can wait; its first word is shown at once
                await asyncio.wait({talking}, timeout=UPDATE_S)
            shown = now
    finally:
        # Not waited for: a model ends its step first, or another visitor's reply that it stands behind.
        talking.cancel()
        for exchange in exchanges:
            if exchange.running:
                exchange.state = "stopped"
    yield


async def _answer(
    models: ModelCache,
    name: str,
    past: Sequence[Message],
    exchange: Exchange,
    sampling: Sampling,
    news: asyncio.Event,
) -> None:
    """`news` is set with every piece of text."""
    exchange.state = "opening"
    try:
        async with models.lease(name) as opened:
            exchange.state = "answering"
            asked = time.perf_counter()
            messages = await opened.messages(past, exchange.query)
            exchange.before_s = time.perf_counter() - asked
            request = ChatRequest(messages=messages, sampling=sampling)
            stream = cast(AsyncGenerator[str | Completion, None], opened.model.stream(request))
            async with aclosing(stream) as pieces:
                async for piece in pieces:
                    if isinstance(piece, Completion):
                        exchange.completion, exchange.reply = piece, piece.text
                    else:
                        exchange.reply += piece
                    news.set()
        exchange.state = "answered"
    except DistillerError as error:
        exchange.state, exchange.error = "failed", str(error)
    except Exception as error:  # a bug on one side leaves the other its reply; the log has the traceback
        logging.getLogger(__name__).exception("%s could not answer", name)
        exchange.state = "failed"
        exchange.error = f"Something broke on our side ({type(error).__name__}). The log of the app says more."


def problem_with(query: str) -> str:
    """Why a text cannot be sent, in words; empty where it can."""
    if not query.strip():
        return "Type a question first, or take one of the examples."
    if len(query) > MAX_CHARACTERS:
        return f"Your text has {len(query):,} characters; at most {MAX_CHARACTERS:,} can be sent. Shorten it."
    return ""
