"""The request engine: one model, many requests, each answered once.

What comes in is a list of requests; what goes out is their completions in the same order, whatever
order they arrived in. Every completion is written to a durable store before it is counted, keyed by a
fingerprint of model, messages and sampling: what was received is never asked for again, by this run
or another. Generation and evaluation both use this engine.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)

from distiller.chat.base import ChatModel, ChatRequest
from distiller.errors import RefusedRequestError, TransientRequestError
from distiller.progress import Tracker
from distiller.schema import Completion, text_hash

MAX_TRIES = 6
#: A server may ask for a longer wait; then its refusal is reported after these tries instead of slept through.
MAX_WAIT_S = 120.0
_wait = wait_random_exponential(multiplier=0.5, max=30)


class CompletionStore:
    """Completions by fingerprint, in SQLite. A batch is stored in one transaction: wholly or not at all."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(path, timeout=60, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS completions (fingerprint TEXT PRIMARY KEY, completion TEXT NOT NULL)"
        )
        self._database.commit()

    def get(self, fingerprints: Sequence[str]) -> dict[str, Completion]:
        found: dict[str, Completion] = {}
        for start in range(0, len(fingerprints), 500):
            part = list(fingerprints[start : start + 500])
            marks = ",".join("?" * len(part))
            query = f"SELECT fingerprint, completion FROM completions WHERE fingerprint IN ({marks})"
            found |= {key: Completion.model_validate_json(text) for key, text in self._database.execute(query, part)}
        return found

    def put(self, completions: dict[str, Completion]) -> None:
        rows = [(key, completion.model_dump_json()) for key, completion in completions.items()]
        with self._database:
            self._database.executemany("INSERT OR IGNORE INTO completions VALUES (?, ?)", rows)

    def close(self) -> None:
        self._database.close()


def fingerprint(model: ChatModel, request: ChatRequest) -> str:
    return text_hash(model.identity, request.model_dump_json())


async def answer(
    model: ChatModel,
    requests: Sequence[ChatRequest],
    store: CompletionStore,
    *,
    tracker: Tracker | None = None,
    on_completion: Callable[[int, Completion], None] | None = None,
    refused: dict[int, RefusedRequestError] | None = None,
) -> list[Completion]:
    """One completion a request, in order. Raises RequestError when one failed for good; with `refused` those that were
    refused are noted there by their place, have an empty completion, are not stored, and end nothing.

    Batches are made from the whole list before the store is asked, so a resumed call runs the same
    batches as an undisturbed one: in bfloat16 a reply may depend on the batch it was in.
    """
    keys = [fingerprint(model, request) for request in requests]
    known = store.get(keys)
    result: list[Completion | None] = [None] * len(requests)

    def arrived(index: int, completion: Completion) -> None:
        result[index] = completion
        if tracker:
            tracker.advance()
        if on_completion:
            on_completion(index, completion)

    #: Equal requests are asked once: the first of them stands for all.
    first: dict[str, int] = {}
    for index, key in enumerate(keys):
        first.setdefault(key, index)
    slots = asyncio.Semaphore(model.concurrency)

    async def run(batch: list[int]) -> None:
        for index in batch:
            if keys[index] in known:
                arrived(index, known[keys[index]])
        missing = [index for index in batch if keys[index] not in known]
        if not missing:
            return
        async with slots:
            try:
                completions = await _with_retries(model, [requests[index] for index in missing])
            except RefusedRequestError as error:
                if refused is None or len(missing) > 1:  # of several it does not say which
                    raise
                refused[missing[0]] = error
                arrived(missing[0], Completion(text="", finish_reason="other"))
                return
        store.put({keys[index]: completion for index, completion in zip(missing, completions, strict=True)})
        for index, completion in zip(missing, completions, strict=True):
            arrived(index, completion)

    try:
        async with asyncio.TaskGroup() as group:
            for batch in _batches(
                model, [index for index in range(len(keys)) if first[keys[index]] == index], requests
            ):
                group.create_task(run(batch))
    except ExceptionGroup as errors:  # the first one, in words; what was received is in the store
        raise errors.exceptions[0] from None
    for index, key in enumerate(keys):
        if first[key] != index and (completion := result[first[key]]) is not None:
            arrived(index, completion)
    return [completion for completion in result if completion is not None]


def _batches(model: ChatModel, indices: list[int], requests: Sequence[ChatRequest]) -> list[list[int]]:
    """The indices in batches of like length, the longest first, so that memory runs out at once or never."""
    if model.max_batch == 1:
        return [[index] for index in indices]
    order = sorted(indices, key=lambda index: -model.length(requests[index]))
    return [order[start : start + model.max_batch] for start in range(0, len(order), model.max_batch)]


async def _with_retries(model: ChatModel, requests: Sequence[ChatRequest]) -> list[Completion]:
    async for attempt in AsyncRetrying(
        retry=retry_if_exception_type(TransientRequestError),
        stop=stop_after_attempt(MAX_TRIES),
        wait=_wait_as_asked,
        reraise=True,
    ):
        with attempt:
            return await model.complete(requests)
    raise AssertionError("unreachable: the last attempt raises")


def _wait_as_asked(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after_s if isinstance(error, TransientRequestError) else None
    return min(asked, MAX_WAIT_S) if asked is not None else _wait(state)
