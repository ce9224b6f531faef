"""Visitors who vote on the page of the real app, over the HTTP that a browser speaks. Tests and benchmarks use them.

Each has a session and an address of its own on loopback, asks a question that nobody else asks, and clicks twice.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from distiller.job import dump_job, parse_job
from distiller.runs import Run
from distiller.schema import write_jsonl, write_text
from evals.votes import VoteStore
from tests.tiny import make_silent_model, talk

API = "/gradio_api"
TIMEOUT_S = 120
#: What stands in the page as soon as a vote is stored.
CONFIRMED = "Thank you: the vote counts."


def question(number: int) -> str:
    return f"Where is my parcel number {number}?"


def make_voting_run(folder: Path, tokenizer_folder: Path, questions: int) -> None:
    """A finished run in `folder`/runs whose two contestants answer at once: stored replies, and a model that says nothing."""
    replies = folder / "replies.jsonl"
    write_jsonl(replies, [talk(f"c{k}", question(k), f"It is at stop {k}.") for k in range(questions)])
    value = {"name": "votes", "teacher_model": f"recorded:{replies}", "student_model": "hf:nobody/none"}
    value |= {name: str(replies) for name in ("training_data", "validation_data", "test_data")}
    job = parse_job(value | {"hyperparameters": {"loss": "sequence"}})
    run = Run(folder / "runs" / f"{job.name}-{job.hash()[:8]}")
    run.folder.mkdir(parents=True)
    write_text(run.path("job.yaml"), dump_job(job))
    make_silent_model(tokenizer_folder, run.path("student"))
    write_text(run.path("manifest.json"), json.dumps({"id": run.id, "student_sha256": "0" * 64}))


@dataclass
class Crowd:
    """`confirmed`: the questions of those who read that their vote was stored, as soon as they read it."""

    address: str
    confirmed: list[int] = field(default_factory=list)
    #: Called after each confirmation: a test kills the app here.
    after_each: Callable[[], None] = lambda: None
    _events: dict[str, int] = field(default_factory=dict)

    async def ask_and_vote(self, numbers: Sequence[int]) -> None:
        """Everyone asks; when all have read the replies, all vote at the same moment."""
        async with httpx.AsyncClient(base_url=self.address, timeout=TIMEOUT_S) as client:
            config = (await client.get("/config")).json()
        self._events = events_of_buttons(config)
        visitors = [_Visitor(self, number) for number in numbers]
        try:
            await asyncio.gather(*(visitor.ask() for visitor in visitors))
            await asyncio.gather(*(visitor.click_twice() for visitor in visitors))
        finally:
            await asyncio.gather(*(visitor.client.aclose() for visitor in visitors))


class _Visitor:
    def __init__(self, crowd: Crowd, number: int) -> None:
        self.crowd, self.number, self.session = crowd, number, secrets.token_hex(6)
        # All of 127.0.0.0/8 is this machine: so each has an address, by which the app tells visitors apart.
        transport = httpx.AsyncHTTPTransport(local_address=f"127.0.{1 + number // 200}.{1 + number % 200}")
        self.client = httpx.AsyncClient(base_url=crowd.address, transport=transport, timeout=TIMEOUT_S)

    async def ask(self) -> None:
        said = [message async for message in self._press(("Send", [question(self.number), None]))]
        if not any("Which one would you rather have" in message for message in said):
            raise RuntimeError(f"Visitor {self.number} got no replies to vote on: {said[-1][:2000]}")

    async def click_twice(self) -> None:
        with suppress(httpx.HTTPError):  # the app was killed: this visitor does not know what became of the vote
            async for message in self._press(*[("A is better", [None, None])] * 2):
                if CONFIRMED in message and self.number not in self.crowd.confirmed:
                    self.crowd.confirmed.append(self.number)
                    self.crowd.after_each()

    async def _press(self, *presses: tuple[str, list[Any]]) -> Any:
        """Presses buttons at the same moment → what the page is sent, until all that they set off has ended."""
        open_: set[str] = set()

        async def join(button: str, data: list[Any]) -> None:
            body = {"data": data, "event_data": None, "fn_index": self.crowd._events[button]}
            answer = await self.client.post(f"{API}/queue/join", json=body | {"session_hash": self.session})
            answer.raise_for_status()
            open_.add(answer.json()["event_id"])

        await asyncio.gather(*(join(button, data) for button, data in presses))
        async with self.client.stream("GET", f"{API}/queue/data", params={"session_hash": self.session}) as stream:
            async for line in stream.aiter_lines():
                if not line.startswith("data:"):
                    continue
                yield line
                message = json.loads(line.removeprefix("data:"))
                if message["msg"] == "process_completed":
                    open_.discard(message["event_id"])
                    if not open_:
                        return


def voted(store: VoteStore) -> list[int]:
    """The number of the question of each stored vote: twice, where a vote is doubled."""
    battles = [store.battle(battle) for battle in store.votes_table()["battle"]]
    return sorted(int(battle.turns[0].query.rpartition(" ")[2].rstrip("?")) for battle in battles)


def events_of_buttons(config: dict[str, Any]) -> dict[str, int]:
    """A button's words, and its element's id → the number of what a click on it sets off first."""
    buttons = {part["id"]: part["props"] for part in config["components"] if part["type"] == "button"}
    events: dict[str, int] = {}
    for event in config["dependencies"]:
        for part, kind in event["targets"]:
            if kind == "click" and part in buttons:
                for name in filter(None, (buttons[part].get("value"), buttons[part].get("elem_id"))):
                    events.setdefault(name, event["id"])
    return events
