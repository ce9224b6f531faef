"""The request engine: order, retries, and that nothing is asked or lost twice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from distiller import answer as engine
from distiller.answer import CompletionStore, answer, fingerprint
from distiller.chat import ChatModel, ChatRequest, OpenOptions, Sampling, open_model
from distiller.errors import RequestError
from distiller.schema import Completion
from tests.fakes import FakeOpenAI, Fault, reply_to
from tests.tiny import QUERIES, user

REQUESTS = [ChatRequest(messages=user(text)) for text in QUERIES]
EXPECTED = [reply_to([{"role": "user", "content": text}]) for text in QUERIES]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[CompletionStore]:
    with closing(CompletionStore(tmp_path / "sub" / "completions.sqlite")) as opened:
        yield opened


def ask(
    server: FakeOpenAI,
    store: CompletionStore,
    requests: Sequence[ChatRequest] = REQUESTS,
    *,
    concurrency: int = 4,
    on_completion: Callable[[int, Completion], None] | None = None,
) -> list[str]:
    async def main() -> list[str]:
        model = open_model(server.name, OpenOptions(concurrency=concurrency))
        try:
            return [c.text for c in await answer(model, requests, store, on_completion=on_completion)]
        finally:
            await model.aclose()

    return asyncio.run(main())


def failure(*arguments: Any, **options: Any) -> RequestError:
    """The error of a call, out of its task group where it comes in one."""
    with pytest.raises((RequestError, ExceptionGroup)) as caught:
        ask(*arguments, **options)
    error: BaseException = caught.value
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, RequestError)
    return error


def test_replies_come_in_the_order_of_the_requests(openai_server: FakeOpenAI, store: CompletionStore) -> None:
    arrived: list[int] = []
    openai_server.piece_delay_s = 0.002
    texts = ask(openai_server, store, on_completion=lambda index, _: arrived.append(index))
    assert texts == EXPECTED
    assert sorted(arrived) == list(range(len(REQUESTS)))


def test_concurrency_is_kept(openai_server: FakeOpenAI, store: CompletionStore) -> None:
    openai_server.delay_s = 0.05
    ask(openai_server, store, concurrency=3)
    assert openai_server.busiest == 3


def test_nothing_is_asked_twice(openai_server: FakeOpenAI, store: CompletionStore) -> None:
    ask(openai_server, store, REQUESTS[:5])
    assert len(openai_server.requests) == 5
    assert ask(openai_server, store) == EXPECTED
    assert len(openai_server.requests) == len(REQUESTS)
    assert ask(openai_server, store) == EXPECTED
    assert len(openai_server.requests) == len(REQUESTS)


def test_equal_requests_in_one_call_are_asked_once_and_stay_equal_on_resume(
    openai_server: FakeOpenAI, store: CompletionStore
) -> None:
    openai_server.numbered = True  # the server answers differently each time, as real ones do
    twice = [REQUESTS[0], REQUESTS[1], REQUESTS[0]]
    texts = ask(openai_server, store, twice)
    assert ask(openai_server, store, twice) == texts
    assert len(openai_server.requests) == 2
    assert texts[0] == texts[2]


def test_a_request_is_known_by_model_messages_and_sampling(openai_server: FakeOpenAI) -> None:
    first = open_model(openai_server.name)
    other = open_model(f"openai:fake-2@{openai_server.base_url}")
    base = REQUESTS[0]
    keys = {
        fingerprint(first, base),
        fingerprint(other, base),
        fingerprint(first, REQUESTS[1]),
        fingerprint(first, base.model_copy(update={"sampling": Sampling(seed=1)})),
        fingerprint(first, base.model_copy(update={"sampling": Sampling(max_tokens=5)})),
        fingerprint(first, base.model_copy(update={"top_logprobs": 2})),
    }
    assert len(keys) == 6
    assert fingerprint(first, ChatRequest(messages=user(QUERIES[0]))) in keys


def test_retry_after_is_honoured(openai_server: FakeOpenAI, store: CompletionStore) -> None:
    openai_server.faults.extend([Fault(status=429, headers={"Retry-After": "1"})])
    assert ask(openai_server, store, REQUESTS[:1]) == EXPECTED[:1]
    first, second = openai_server.arrivals
    assert 1.0 <= second - first < 3


@pytest.mark.parametrize(
    "fault", [Fault(status=429), Fault(status=500), Fault(drop_after=2), Fault(empty_choices=True)]
)
def test_what_passes_is_tried_again(openai_server: FakeOpenAI, store: CompletionStore, fault: Fault) -> None:
    openai_server.faults.append(fault)
    assert ask(openai_server, store, REQUESTS[:1]) == EXPECTED[:1]
    assert len(openai_server.requests) == 2


def test_it_gives_up_in_words_after_its_tries(openai_server: FakeOpenAI, store: CompletionStore) -> None:
    openai_server.always = Fault(status=503, headers={"Retry-After": "0"})
    error = failure(openai_server, store, REQUESTS[:1])
    assert "the server answered 503" in str(error)
    assert len(openai_server.requests) == engine.MAX_TRIES


def test_what_does_not_pass_is_not_tried_again(openai_server: FakeOpenAI, store: CompletionStore) -> None:
    openai_server.always = Fault(status=401)
    assert "refused the key" in str(failure(openai_server, store, REQUESTS[:1]))
    assert len(openai_server.requests) == 1


def test_a_failure_comes_as_the_documented_error(openai_server: FakeOpenAI, store: CompletionStore) -> None:
    """`answer` says that it raises RequestError: a caller that catches DistillerError must see it."""
    openai_server.always = Fault(status=401)
    with pytest.raises(RequestError):
        ask(openai_server, store, REQUESTS[:1])


def test_a_failure_in_the_middle_loses_nothing_that_was_received(
    openai_server: FakeOpenAI, store: CompletionStore
) -> None:
    openai_server.always, openai_server.fail_when = Fault(status=400), QUERIES[7]
    received: list[int] = []
    failure(openai_server, store, concurrency=1, on_completion=lambda index, _: received.append(index))
    assert received == list(range(7))
    before = len(openai_server.requests)
    openai_server.always = None
    assert ask(openai_server, store) == EXPECTED
    assert len(openai_server.requests) - before == len(REQUESTS) - len(received)


def test_a_crash_of_the_caller_loses_nothing_that_was_received(
    openai_server: FakeOpenAI, store: CompletionStore
) -> None:
    def crash(index: int, _: Completion) -> None:
        if index == 4:
            raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, BaseExceptionGroup)):
        ask(openai_server, store, concurrency=1, on_completion=crash)
    before = len(openai_server.answered)
    assert ask(openai_server, store) == EXPECTED
    assert len(openai_server.answered) == len(REQUESTS)
    assert before >= 5


class Batched(ChatModel):
    """A model in batches of four; it notes what it is asked together."""

    name, identity, max_batch, concurrency = "batched", "batched", 4, 1

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    async def complete(self, requests: Sequence[ChatRequest]) -> list[Completion]:
        self.batches.append([self.length(request) for request in requests])
        return [Completion(text=request.messages[-1].content.upper()) for request in requests]

    async def stream(self, request: ChatRequest) -> AsyncGenerator[str | Completion, None]:
        yield Completion(text="")


def test_batches_hold_requests_of_like_length_the_longest_first(store: CompletionStore) -> None:
    model = Batched()
    completions = asyncio.run(answer(model, REQUESTS, store))
    assert [c.text for c in completions] == [text.upper() for text in QUERIES]
    lengths = [length for batch in model.batches for length in batch]
    assert lengths == sorted((len(text) for text in QUERIES), reverse=True)
    assert [len(batch) for batch in model.batches] == [4, 4, 4]


def test_a_resumed_call_forms_the_same_batches(store: CompletionStore) -> None:
    model = Batched()
    asyncio.run(answer(model, REQUESTS, store))
    whole = model.batches
    with closing(
        CompletionStore(Path(store._database.execute("PRAGMA database_list").fetchone()[2]).parent / "b")
    ) as b:
        first = sorted(range(12), key=lambda i: -len(QUERIES[i]))[:4]
        b.put({fingerprint(model, REQUESTS[i]): Completion(text=QUERIES[i].upper()) for i in first})
        again = Batched()
        asyncio.run(answer(again, REQUESTS, b))
    assert again.batches == whole[1:]


def test_the_store_outlives_the_process_and_keeps_the_first(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    with closing(CompletionStore(path)) as first:
        first.put({"k": Completion(text="one", top_logprobs=[[("o", -0.1)]], latency_s=1.5)})
        first.put({"k": Completion(text="two")})
    with closing(CompletionStore(path)) as second:
        found = second.get([*(str(n) for n in range(1200)), "k"])
    assert list(found) == ["k"]
    assert found["k"] == Completion(text="one", top_logprobs=[[("o", -0.1)]], latency_s=1.5)


def test_two_processes_may_write_one_store(tmp_path: Path) -> None:
    with closing(CompletionStore(tmp_path / "c.sqlite")) as a, closing(CompletionStore(tmp_path / "c.sqlite")) as b:
        began = time.monotonic()
        for k in range(20):
            a.put({f"a{k}": Completion(text="a")})
            b.put({f"b{k}": Completion(text="b")})
        assert len(a.get([f"b{k}" for k in range(20)])) == 20
        assert time.monotonic() - began < 30
