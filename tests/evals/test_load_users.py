"""The users of a load test in virtual time, against queues whose figures can be computed by hand."""

from __future__ import annotations

import asyncio
import os
import random
import selectors
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from itertools import chain, pairwise
from typing import Any

import pytest

from distiller.chat import ChatModel, ChatRequest
from distiller.errors import RequestError
from distiller.prompting import Prompting
from distiller.schema import Completion, Conversation, Message
from evals.load_figures import Limits, TimedRequest, level_figures
from evals.load_users import Crowd, LoadSettings, Window, walk
from tests.tiny import talk, talks

S, Z = 0.5, 2.0


class JumpingSelector(selectors.DefaultSelector):
    """Where the loop would sleep, its clock moves on instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(None if timeout is None else 0)
        if not ready and timeout is not None:
            self.now += timeout
        return ready


class JumpingLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


class Server(ChatModel):
    """`slots` requests are served at a time, each for `service()` seconds; the others queue, first come first served."""

    name = identity = "simulated"

    def __init__(self, service: Callable[[], float] = lambda: S, slots: int = 1) -> None:
        self._service, self._slots = service, asyncio.Semaphore(slots)
        self.requests: list[ChatRequest] = []

    async def complete(self, requests: Sequence[ChatRequest]) -> list[Completion]:
        raise NotImplementedError

    async def stream(self, request: ChatRequest) -> AsyncGenerator[str | Completion, None]:
        self.requests.append(request)
        async with self._slots:
            await asyncio.sleep(self._service())
            text = f"reply to {request.messages[-1].content}"
            yield text
            yield Completion(text=text, completion_tokens=10, prompt_tokens=7)


def crowd_window(
    model: ChatModel,
    users: int,
    data: Sequence[Conversation] | None = None,
    prompting: Prompting | None = None,
    virtual: bool = True,
    **settings: Any,
) -> Window:
    chosen = LoadSettings(**{"think_s": Z, "seconds": 100.0, "min_replies": 1} | settings)
    crowd = Crowd(model, prompting or Prompting("Be brief."), data or talks(30, turns=3), chosen, users)
    with asyncio.Runner(loop_factory=JumpingLoop if virtual else None) as runner:
        return runner.run(crowd.measure())


def figures_of(window: Window, users: int) -> dict[str, Any]:
    return level_figures(
        window.requests,
        users=users,
        window_s=window.window_s,
        cpu_s=window.cpu_s,
        users_cpu_s=window.users_cpu_s,
        limits=Limits(),
        price_per_hour=None,
    )


# The closed loop against queueing theory: X(R + Z) = N, X ≤ 1/S.


@pytest.mark.parametrize(
    ("users", "slots", "rate", "response"),
    [
        (1, 1, 1 / (S + Z), S),
        (2, 1, 2 / (S + Z), S),  # starts a second apart: nobody waits
        (5, 1, 1 / S, S),  # just full
        (10, 1, 1 / S, 10 * S - Z),  # R = N/X − Z
        (20, 1, 1 / S, 20 * S - Z),
        (40, 4, 4 / S, 40 * S / 4 - Z),
    ],
)
def test_throughput_and_response_time_are_those_of_the_queue(
    users: int, slots: int, rate: float, response: float
) -> None:
    figures = figures_of(crowd_window(Server(slots=slots), users), users)
    assert figures["replies_per_s"] == pytest.approx(rate, rel=0.01)
    assert figures["tokens_per_s"] == pytest.approx(10 * rate, rel=0.01)
    assert figures["latency_p50_s"] == pytest.approx(response, rel=1e-6)
    assert figures["latency_p95_s"] == pytest.approx(response, rel=1e-6)


def test_random_service_times_give_the_mean_value_analysis_of_a_closed_network() -> None:
    # Reiser & Lavenberg 1980: R(n) = S (1 + Q(n − 1)), X(n) = n / (R(n) + Z), Q(n) = X(n) R(n).
    users, queue = 4, 0.0
    for n in range(1, users + 1):
        response = S * (1 + queue)
        rate = n / (response + Z)
        queue = rate * response
    draw = random.Random(1)
    window = crowd_window(Server(lambda: draw.expovariate(1 / S)), users, seconds=6000.0)
    sent = [r for r in window.requests if 0 <= r.sent_s < window.window_s]
    assert figures_of(window, users)["replies_per_s"] == pytest.approx(rate, rel=0.03)
    assert sum(r.latency_s for r in sent) / len(sent) == pytest.approx(response, rel=0.04)


# What a user does.


def by_user(window: Window) -> dict[int, list[TimedRequest]]:
    users: dict[int, list[TimedRequest]] = {}
    for request in window.requests:
        users.setdefault(request.user, []).append(request)
    return users


def test_starts_are_spread_and_every_message_is_thought_about() -> None:
    window = crowd_window(Server(slots=4), 4, seconds=20.0)
    starts = [rows[0].sent_s for _, rows in sorted(by_user(window).items())]
    assert [start - starts[0] for start in starts] == pytest.approx([0.0, 0.5, 1.0, 1.5])
    for rows in by_user(window).values():
        pauses = [b.sent_s - a.sent_s - a.latency_s for a, b in pairwise(rows)]
        assert pauses == pytest.approx([Z] * len(pauses))
        assert [(r.visit, r.turn) for r in rows[:7]] == [(k // 3, k % 3) for k in range(7)]


def test_without_thinking_the_starts_are_spread_over_a_second() -> None:
    rows = by_user(crowd_window(Server(slots=4), 4, think_s=0.0, seconds=5.0))
    starts = sorted(r[0].sent_s for r in rows.values())
    assert [start - starts[0] for start in starts] == pytest.approx([0.0, 0.25, 0.5, 0.75])


@pytest.mark.parametrize("own", [True, False])
def test_a_turn_follows_the_models_own_replies_or_the_references(own: bool) -> None:
    server = Server()
    crowd_window(server, 1, [talk("c", "One?", "first reference", "Two?", "second reference")], own_history=own)
    asked = next(r for r in server.requests if r.messages[-1].content == "Two?")
    earlier = "reply to One?" if own else "first reference"
    assert [m.content for m in asked.messages][-3:] == ["One?", earlier, "Two?"]
    assert asked.messages[0] == Message(role="system", content="Be brief.")


def test_the_first_conversations_are_shared_out_and_later_orders_are_each_users_own() -> None:
    data = talks(10)
    walks = [walk(data, user, 3, seed=5) for user in range(3)]
    first = [[next(one).id for _ in range(4 if user == 0 else 3)] for user, one in enumerate(walks)]
    assert sorted(chain.from_iterable(first)) == sorted(c.id for c in data)
    later = [[next(one).id for _ in range(10)] for one in walks]
    assert all(sorted(order) == sorted(c.id for c in data) for order in later)
    assert later[0] != later[1] != later[2]
    again = walk(data, 0, 3, seed=5)
    assert [next(again).id for _ in range(14)] == first[0] + later[0]


def test_only_a_conversation_that_somebody_had_is_repeated() -> None:
    window = crowd_window(Server(slots=2), 2, talks(4, turns=2), seconds=60.0)
    seen: set[str] = set()
    for row in sorted(window.requests, key=lambda r: r.sent_s):
        if row.turn == 0:
            assert row.repeated == (row.conversation in seen)
            seen.add(row.conversation)


# Stamps.


class Scripted(Server):
    """Pieces at their moments, in seconds since the request."""

    def __init__(self, pieces: Sequence[tuple[float, str]], tokens: int | None) -> None:
        super().__init__()
        self._pieces, self._tokens = pieces, tokens

    async def stream(self, request: ChatRequest) -> AsyncGenerator[str | Completion, None]:
        before = 0.0
        for at, text in self._pieces:
            await asyncio.sleep(at - before)
            before = at
            yield text
        yield Completion(text="".join(text for _, text in self._pieces).strip(), completion_tokens=self._tokens)


def test_ttft_is_the_first_text_and_tpot_the_rest_over_the_other_tokens() -> None:
    pieces = [(0.1, ""), (0.2, "  "), (0.3, "Your"), (0.4, " parcel"), (0.5, " is"), (0.6, " on"), (0.7, " its way")]
    row = crowd_window(Scripted(pieces, 5), 1).requests[0]
    assert (row.ttft_s, row.latency_s, row.tpot_s) == pytest.approx((0.3, 0.7, 0.1))


def test_a_single_token_has_no_tpot_and_an_empty_reply_no_ttft() -> None:
    assert crowd_window(Scripted([(0.3, "Yes")], 1), 1).requests[0].tpot_s is None
    assert crowd_window(Scripted([(0.3, "Yes and no")], None), 1).requests[0].tpot_s is None
    empty = crowd_window(Scripted([(0.3, "")], 0), 1).requests[0]
    assert (empty.ttft_s, empty.error) == (None, None)


def test_looking_up_policy_lines_is_on_the_clock_and_keeps_nobody_waiting() -> None:
    class Slow:
        def search(self, histories: Any, lines: int, ids: Any, *, complete: bool) -> list[str]:
            time.sleep(0.2)
            return ["Parcels take two days."] * len(histories)

    policies: Any = Slow()
    server = Server(lambda: 0.01, slots=8)
    prompting = Prompting("Be brief.", policies=policies)
    window = crowd_window(server, 4, prompting=prompting, virtual=False, think_s=0.1, seconds=0.8)
    assert all(row.ttft_s is not None and row.ttft_s >= 0.21 for row in window.requests)
    assert all("Parcels take two days." in request.messages[-1].content for request in server.requests)
    # One after the other the four would take 0.8 s a round; together each takes its own 0.21 s.
    assert sorted(row.latency_s for row in window.requests)[len(window.requests) // 2] < 0.6
    assert window.users_cpu_s < window.window_s / 2


# The window.


def test_what_is_sent_in_the_window_is_followed_to_its_end() -> None:
    # Sent at 0 and 1, answered at 5 and 6, sent again at 7 and 8: the window is open from 6 to 12.5.
    window = crowd_window(Server(lambda: 5.0, slots=2), 2, seconds=6.5)
    sent = [row for row in window.requests if 0 <= row.sent_s < window.window_s]
    assert [row.sent_s for row in sent] == pytest.approx([1.0, 2.0])
    assert [row.sent_s + row.latency_s for row in sent] == pytest.approx([6.0, 7.0])
    assert window.window_s == pytest.approx(6.5)
    assert figures_of(window, 2)["replies_per_s"] == pytest.approx(1 / 6.5)


def test_a_window_stays_open_for_enough_replies_but_not_for_ever() -> None:
    assert crowd_window(Server(), 1, seconds=5.0, min_replies=8).window_s == pytest.approx(8 * (S + Z))
    assert crowd_window(Server(), 1, seconds=5.0, min_replies=100).window_s == pytest.approx(50.0)


def test_the_window_opens_when_every_user_has_been_answered_once() -> None:
    window = crowd_window(Server(), 8)
    firsts = [rows[0] for rows in by_user(window).values()]
    assert max(row.sent_s + row.latency_s for row in firsts) == pytest.approx(0.0)


def test_what_other_programs_take_of_the_machine_is_known() -> None:
    busy = "while True: pass"
    quiet = crowd_window(Server(lambda: 0.01), 1, virtual=False, think_s=0.1, seconds=0.6)
    programs = [subprocess.Popen([sys.executable, "-c", busy]) for _ in range(os.cpu_count() or 1)]
    try:
        disturbed = crowd_window(Server(lambda: 0.01), 1, virtual=False, think_s=0.1, seconds=0.6)
    finally:
        for program in programs:
            program.kill()
            program.wait()
    assert 0 <= quiet.others_share <= 1.05
    assert 0.8 < disturbed.others_share <= 1.05


# Errors.


class Failing(Server):
    """Refuses what holds the word; with `after`, once some text was sent."""

    def __init__(self, word: str, after: bool = False, **more: Any) -> None:
        super().__init__(**more)
        self._word, self._after = word, after

    async def stream(self, request: ChatRequest) -> AsyncGenerator[str | Completion, None]:
        if self._word in request.messages[-1].content:
            if self._after:
                await asyncio.sleep(0.25)
                yield "Your"
            raise RequestError("simulated: the server answered 503.")
        async for item in super().stream(request):
            yield item


def test_an_error_is_counted_and_its_user_comes_again_with_another_conversation() -> None:
    window = crowd_window(Failing("case c1.1"), 2, talks(6, turns=3), seconds=200.0)
    failed = [row for row in window.requests if row.error]
    assert {(row.conversation, row.turn) for row in failed} == {("c1", 1)}
    assert {row.error for row in failed} == {"the server answered 503"}
    for rows in by_user(window).values():
        for before, after in pairwise(rows):
            if before.error:
                assert (after.visit, after.turn) == (before.visit + 1, 0)
    figures = figures_of(window, 2)
    assert figures["errors"] == {"the server answered 503": len([r for r in failed if 0 <= r.sent_s < 200])}


def test_a_server_that_refuses_at_once_is_not_hammered() -> None:
    window = crowd_window(Failing("case"), 1, think_s=0.0, seconds=10.0)
    assert len([row for row in window.requests if 0 <= row.sent_s < 10]) == 10
    assert figures_of(window, 1)["replies_per_s"] == 0


def test_a_reply_that_breaks_off_keeps_its_first_moment() -> None:
    row = crowd_window(Failing("case", after=True), 1, seconds=10.0).requests[0]
    assert (row.ttft_s, row.completion_tokens, row.tpot_s) == (pytest.approx(0.25), None, None)


def test_a_reply_that_takes_too_long_is_given_up() -> None:
    window = crowd_window(Server(lambda: 30.0), 3, seconds=50.0, timeout_s=4.0)
    assert {row.error for row in window.requests} == {"no whole reply in 4 s"}
    assert all(row.latency_s == pytest.approx(4.0) for row in window.requests)


def test_a_stream_without_an_end_is_an_error() -> None:
    class Endless(Server):
        async def stream(self, request: ChatRequest) -> AsyncGenerator[str | Completion, None]:
            yield "Your parcel"

    window = crowd_window(Endless(), 1, seconds=5.0)
    assert {row.error for row in window.requests} == {"the stream ended without a reply"}
