"""Stand-ins that speak the real protocols: an OpenAI-style server on loopback, with faults on demand.

A reply is a function of the messages alone, so two runs can be compared word by word. The server
notes every request it got and every reply it sent to its end.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

PROMPT_OVERHEAD = 3


@dataclass
class Fault:
    """What goes wrong with one request. `drop_after`: pieces that are sent before the connection breaks."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    drop_after: int | None = None
    empty_choices: bool = False
    garbage: bool = False


def reply_to(messages: list[dict[str, str]]) -> str:
    """Deterministic, different for every history, a dozen plain words."""
    said = json.dumps([[m["role"], m["content"]] for m in messages])
    digest = hashlib.sha256(said.encode()).hexdigest()[:8]
    query = messages[-1]["content"]
    return f"You asked: {query} Your order {digest} arrives within {len(messages)} days, thank you."


def pieces_of(text: str) -> list[str]:
    """Tokens of the fake model: words with the space before them."""
    words = text.split(" ")
    return [words[0], *(f" {word}" for word in words[1:])]


def prompt_tokens_of(messages: list[dict[str, str]]) -> int:
    return sum(len(m["content"].split()) + PROMPT_OVERHEAD for m in messages)


class FakeOpenAI:
    """The state of the server: what it got, what it sent, what shall go wrong, how slow it is."""

    def __init__(self) -> None:
        self.base_url = ""
        self.reset()

    def reset(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.arrivals: list[float] = []
        self.answered: list[dict[str, Any]] = []
        self.broken_off = 0
        self.faults: deque[Fault] = deque()
        self.always: Fault | None = None  # befalls every request that no entry of `faults` befalls
        self.fail_when: str | None = None  # `always` befalls those alone whose last message holds this
        self.reply: Callable[[list[dict[str, str]]], str] = reply_to
        self.delay_s = 0.0  # before the first piece
        self.piece_delay_s = 0.0
        self.numbered = False  # replies then say which request they answer: a server that is not deterministic
        self.busy = self.busiest = 0

    @property
    def name(self) -> str:
        return f"openai:fake-1@{self.base_url}"

    def take_fault(self, body: dict[str, Any]) -> Fault | None:
        if self.faults:
            return self.faults.popleft()
        if self.always and (self.fail_when is None or self.fail_when in body["messages"][-1]["content"]):
            return self.always
        return None

    def app(self) -> Any:
        from fastapi import FastAPI, Request
        from fastapi.responses import JSONResponse, Response, StreamingResponse

        async def chat(request: Request) -> Response:
            body = await request.json()
            self.requests.append(body)
            self.headers.append(dict(request.headers))
            self.arrivals.append(time.perf_counter())
            number = len(self.requests)
            fault = self.take_fault(body) or Fault()
            if fault.status is not None:
                error = {"error": {"message": f"fault {fault.status}", "type": "fault", "code": None}}
                return JSONResponse(error, fault.status, headers=fault.headers)
            if fault.garbage:
                return Response("<html>the gateway says hello</html>", media_type="application/json")
            self.busy += 1
            self.busiest = max(self.busiest, self.busy)
            try:
                await asyncio.sleep(self.delay_s)
            finally:
                self.busy -= 1
            text = self.reply(body["messages"]) + (f" ({number})" if self.numbered else "")
            pieces = pieces_of(text)[: body.get("max_tokens") or None]
            finish = "stop" if len(pieces) == len(pieces_of(text)) else "length"
            prompt = prompt_tokens_of(body["messages"])
            usage = {
                "prompt_tokens": prompt,
                "completion_tokens": len(pieces),
                "total_tokens": prompt + len(pieces),
            }
            frame = {"id": f"chatcmpl-{number}", "created": 1, "model": body["model"]}
            if body.get("stream"):
                wants_usage = (body.get("stream_options") or {}).get("include_usage")
                events = self._events(frame, pieces, finish, usage if wants_usage else None, fault, body)
                return StreamingResponse(events, media_type="text/event-stream")
            choice = {
                "index": 0,
                "message": {"role": "assistant", "content": "".join(pieces)},
                "finish_reason": finish,
                "logprobs": _logprobs(pieces, body.get("top_logprobs") or 0) if body.get("logprobs") else None,
            }
            self.answered.append(body)
            choices = [] if fault.empty_choices else [choice]
            return JSONResponse({**frame, "object": "chat.completion", "choices": choices, "usage": usage})

        app = FastAPI()
        app.add_route("/v1/chat/completions", chat, methods=["POST"])
        return app

    async def _events(
        self,
        frame: dict[str, Any],
        pieces: list[str],
        finish: str,
        usage: dict[str, int] | None,
        fault: Fault,
        body: dict[str, Any],
    ) -> AsyncIterator[str]:
        def event(choices: list[dict[str, Any]], **more: Any) -> str:
            value = {**frame, "object": "chat.completion.chunk", "choices": choices, **more}
            return f"data: {json.dumps(value)}\n\n"

        finished = False
        try:
            if not fault.empty_choices:
                yield event([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
                for sent, piece in enumerate(pieces):
                    if sent == fault.drop_after:
                        raise ConnectionResetError("the connection is dropped, as the test asked")
                    yield event([{"index": 0, "delta": {"content": piece}, "finish_reason": None}])
                    await asyncio.sleep(self.piece_delay_s)
                yield event([{"index": 0, "delta": {}, "finish_reason": finish}])
            if usage is not None:
                yield event([], usage=usage)
            self.answered.append(body)
            finished = True
            yield "data: [DONE]\n\n"
        finally:
            self.broken_off += not finished


def _logprobs(pieces: list[str], k: int) -> dict[str, Any]:
    def entry(token: str, rank: int) -> dict[str, Any]:
        return {"token": token, "logprob": -0.1 * (rank + 1), "bytes": list(token.encode())}

    return {
        "content": [
            {**entry(piece, 0), "top_logprobs": [entry(piece if r == 0 else f"other{r}", r) for r in range(k)]}
            for piece in pieces
        ]
    }


@contextmanager
def serve_fake() -> Iterator[FakeOpenAI]:
    """The server in a thread, on a free port of this machine."""
    import uvicorn

    fake = FakeOpenAI()
    config = uvicorn.Config(fake.app(), host="127.0.0.1", port=0, log_level="critical", ws="none", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    fake.base_url = f"http://127.0.0.1:{port}/v1"
    try:
        yield fake
    finally:
        server.should_exit = True
        thread.join(timeout=10)
