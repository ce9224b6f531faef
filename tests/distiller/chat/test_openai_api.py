"""The client against a real server of the protocol, on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from distiller.chat import ChatRequest, Sampling
from distiller.chat.openai_api import OpenAIModel
from distiller.errors import ModelError, RefusedRequestError, RequestError, TransientRequestError
from distiller.schema import Completion, Message
from tests.fakes import FakeOpenAI, Fault, pieces_of, prompt_tokens_of, reply_to
from tests.tiny import user

QUESTION = ChatRequest(messages=[Message(role="system", content="Be brief."), *user("Where is my parcel?")])
PLAIN = [{"role": m.role, "content": m.content} for m in QUESTION.messages]


def ask(server: FakeOpenAI, request: ChatRequest = QUESTION, **options: Any) -> Completion:
    async def main() -> Completion:
        model = OpenAIModel(server.name, "fake-1", server.base_url, **options)
        try:
            return (await model.complete([request]))[0]
        finally:
            await model.aclose()

    return asyncio.run(main())


def stream(server: FakeOpenAI, stop_after: int | None = None) -> list[str | Completion]:
    async def main() -> list[str | Completion]:
        model = OpenAIModel(server.name, "fake-1", server.base_url)
        items: list[str | Completion] = []
        pieces = model.stream(QUESTION)
        async for item in pieces:
            items.append(item)
            if len(items) == stop_after:
                await pieces.aclose()
                break
        await model.aclose()
        return items

    return asyncio.run(main())


@pytest.mark.parametrize("streaming", [True, False])
def test_text_tokens_and_times(openai_server: FakeOpenAI, streaming: bool) -> None:
    openai_server.delay_s = 0.05
    openai_server.piece_delay_s = 0.005
    completion = ask(openai_server, streaming=streaming)
    expected = reply_to(PLAIN)
    assert completion.text == expected
    assert completion.finish_reason == "stop"
    assert completion.prompt_tokens == prompt_tokens_of(PLAIN)
    assert completion.completion_tokens == len(pieces_of(expected))
    assert completion.ttft_s is not None
    assert completion.latency_s is not None
    assert 0.05 <= completion.ttft_s <= completion.latency_s
    if streaming:
        assert completion.latency_s - completion.ttft_s >= 0.005 * (len(pieces_of(expected)) - 2)
    assert len(openai_server.requests) == 1
    assert bool(openai_server.requests[0].get("stream")) is streaming


def test_what_is_sent(openai_server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-secret")
    sampling = Sampling(temperature=0.5, top_p=0.9, max_tokens=40, seed=7)
    ask(openai_server, QUESTION.model_copy(update={"sampling": sampling}), key_variable="MY_KEY")
    body = openai_server.requests[0]
    assert body["messages"] == PLAIN
    assert {k: body[k] for k in ("model", "temperature", "top_p", "max_tokens", "seed")} == {
        "model": "fake-1",
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 40,
        "seed": 7,
    }
    assert openai_server.headers[0]["authorization"] == "Bearer sk-secret"


@pytest.mark.parametrize("streaming", [True, False])
def test_a_reply_cut_by_length(openai_server: FakeOpenAI, streaming: bool) -> None:
    request = QUESTION.model_copy(update={"sampling": Sampling(max_tokens=3)})
    completion = ask(openai_server, request, streaming=streaming)
    assert completion.finish_reason == "length"
    assert (completion.text, completion.completion_tokens) == ("You asked: Where", 3)


def test_logprobs_come_best_first_for_every_token(openai_server: FakeOpenAI) -> None:
    completion = ask(openai_server, QUESTION.model_copy(update={"top_logprobs": 3}))
    assert completion.top_logprobs is not None
    assert "".join(entry[0][0] for entry in completion.top_logprobs) == completion.text
    for entry in completion.top_logprobs:
        assert [value for _, value in entry] == sorted((value for _, value in entry), reverse=True)
        assert len(entry) == 3


def test_stream_gives_pieces_then_the_completion(openai_server: FakeOpenAI) -> None:
    *pieces, completion = stream(openai_server)
    assert isinstance(completion, Completion)
    assert pieces == pieces_of(completion.text)


def test_closing_a_stream_ends_the_request(openai_server: FakeOpenAI) -> None:
    openai_server.piece_delay_s = 0.2
    assert len(stream(openai_server, stop_after=2)) == 2

    async def settled() -> None:
        for _ in range(100):
            if openai_server.broken_off:
                return
            await asyncio.sleep(0.05)

    asyncio.run(settled())
    assert (openai_server.broken_off, openai_server.answered) == (1, [])


FAULTS: dict[str, tuple[Fault, type[RequestError], str, float | None]] = {
    "429 with Retry-After": (Fault(status=429, headers={"Retry-After": "2.5"}), TransientRequestError, "429", 2.5),
    "429": (Fault(status=429), TransientRequestError, "429", None),
    "429 until a date": (
        Fault(status=429, headers={"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}),
        TransientRequestError,
        "429",
        None,
    ),
    "500": (Fault(status=500), TransientRequestError, "500", None),
    "503": (Fault(status=503), TransientRequestError, "503", None),
    "dropped": (Fault(drop_after=2), TransientRequestError, "", None),
    "empty choices": (Fault(empty_choices=True), TransientRequestError, "", None),
    "400": (Fault(status=400), RefusedRequestError, "fault 400", None),
    "401": (Fault(status=401), RequestError, "refused the key", None),
    "403": (Fault(status=403), RequestError, "refused the key", None),
    "404": (Fault(status=404), RequestError, "knows no such model", None),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_in_words_and_one_request_a_call(openai_server: FakeOpenAI, name: str) -> None:
    fault, kind, words, wait = FAULTS[name]
    openai_server.always = fault
    with pytest.raises(RequestError) as caught:
        ask(openai_server)
    assert type(caught.value) is kind
    assert words in str(caught.value)
    assert openai_server.name in str(caught.value)
    assert getattr(caught.value, "retry_after_s", None) == wait
    assert len(openai_server.requests) == 1


@pytest.mark.parametrize("name", ["429", "500", "empty choices", "400", "401"])
def test_faults_without_streaming(openai_server: FakeOpenAI, name: str) -> None:
    openai_server.always = FAULTS[name][0]
    with pytest.raises(FAULTS[name][1]) as caught:
        ask(openai_server, streaming=False)
    assert FAULTS[name][2] in str(caught.value)
    assert len(openai_server.requests) == 1


def test_a_reply_that_is_no_json(openai_server: FakeOpenAI) -> None:
    openai_server.always = Fault(garbage=True)
    with pytest.raises(TransientRequestError):
        ask(openai_server, streaming=False)


@pytest.mark.parametrize("streaming", [True, False])
def test_a_server_that_is_not_there(openai_server: FakeOpenAI, streaming: bool) -> None:
    gone = FakeOpenAI()
    gone.base_url = "http://127.0.0.1:9/v1"
    with pytest.raises(TransientRequestError, match="no connection"):
        ask(gone, streaming=streaming)


def test_a_server_that_answers_too_late(openai_server: FakeOpenAI) -> None:
    openai_server.delay_s = 2
    with pytest.raises(TransientRequestError, match="in time"):
        ask(openai_server, timeout_s=0.2)


def test_a_server_that_falls_silent_in_mid_reply(openai_server: FakeOpenAI) -> None:
    openai_server.piece_delay_s = 2
    with pytest.raises(TransientRequestError, match="in time"):
        ask(openai_server, timeout_s=0.3)


def test_a_remote_server_needs_a_key() -> None:
    with pytest.raises(ModelError, match="Set the environment variable MY_KEY"):
        OpenAIModel("openai:x@https://api.example", "x", "https://api.example", key_variable="MY_KEY")
    with pytest.raises(ModelError, match="OPENAI_API_KEY"):
        OpenAIModel("openai:gpt-4", "gpt-4", None)


def test_the_key_stands_in_no_word_that_leaves(openai_server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    model = OpenAIModel(openai_server.name, "fake-1", openai_server.base_url)
    assert "sk-secret" not in model.identity + model.name
    openai_server.always = Fault(status=401)
    with pytest.raises(RequestError) as caught:
        ask(openai_server)
    assert "sk-secret" not in str(caught.value)


def test_the_identity_tells_models_and_servers_apart() -> None:
    def identity(model: str, url: str) -> str:
        return OpenAIModel("openai:x", model, url).identity

    make: Callable[..., str] = identity
    assert len({make("a", "http://127.0.0.1:1"), make("b", "http://127.0.0.1:1"), make("a", "http://127.0.0.1:2")}) == 3
