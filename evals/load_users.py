"""Users at once on one model, in a process of its own: `python -m evals.load_users` reads a request from standard
input and prints the timed requests as JSON.

A closed loop: each user sends a turn, reads the reply, thinks, and sends the next one, which follows the model's own
earlier replies unless told otherwise. So a slow model is asked less often, as in life. Their starts are spread over one
think time. The window opens when every user has had a reply or an error: the load is all there. Every request that is
sent in the window is followed to its end, while the users go on: stopping them would let the last replies have the
machine for themselves, and leaving out the unfinished would leave out the slow.

Times are stamped where a user gets the text, and include what a model needs beside itself (policy lines).
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distiller.chat import ChatModel, ChatRequest, OpenOptions, Sampling, open_model
from distiller.errors import DistillerError
from distiller.job import DistillationJob
from distiller.prompting import Prompting
from distiller.schema import Completion, Conversation, Turn, history, read_conversations
from distiller.tasks import TASKS
from evals.contestants import Contestant
from evals.load_figures import TimedRequest
from evals.measure import answer_parent, in_fresh_process, peak_memory_bytes

#: Seconds over which the starts are spread where users do not think.
_SPREAD_S = 1.0
#: Seconds until a user whose request failed comes again, at least: a server that refuses at once is not hammered.
_AFTER_ERROR_S = 1.0
#: A window ends after this many times its length, even if too few replies came.
_LONGEST = 10


@dataclass(frozen=True)
class LoadSettings:
    """What shapes every level. Two levels can be compared where these are the same."""

    #: Between a reply and the user's next message, and before the next conversation.
    think_s: float = 2.0
    #: Length of the measured window. It stays open longer, ten times at most, until `min_replies` came (or failed).
    seconds: float = 60.0
    min_replies: int = 40
    max_tokens: int = 128
    #: A reply that takes longer is given up, and counts as failed.
    timeout_s: float = 120.0
    seed: int = 0
    #: A turn follows the model's own earlier replies, as in service; else the references, so that every model reads the
    #: same words.
    own_history: bool = True


@dataclass(frozen=True)
class Window:
    """The requests that ended, those before and after the measured window too; its length; its processor seconds."""

    requests: list[TimedRequest]
    window_s: float
    cpu_s: float
    #: Of them, those of the users themselves, which a real service would not spend.
    users_cpu_s: float
    #: Of all processor seconds that the machine had, those that other programs took.
    others_share: float


def measure_level(
    contestant: Contestant, data_file: Path, settings: LoadSettings, users: int, options: OpenOptions
) -> dict[str, Any]:
    """One level of load on a freshly opened model. Raises DistillerError where it cannot be opened.

    Keys: requests (each of them a TimedRequest's fields), window_s, users_cpu_s, identity, parameters; and of a model on
    this machine peak_memory_mb, weights_mb, cpu_s and others_share, which are None otherwise.
    """
    job = contestant.job.model_dump(mode="json") if contestant.job else None
    request: dict[str, Any] = {"name": contestant.name, "role": contestant.role, "job": job, "data": str(data_file)}
    request |= {"settings": asdict(settings), "users": users, "options": asdict(options)}
    what = f"Measuring {contestant.name} with {users} user{'s' * (users > 1)}"
    return in_fresh_process("evals.load_users", request, what)


async def _measure(request: dict[str, Any]) -> dict[str, Any]:
    watching = asyncio.create_task(_end_with(os.getppid()))
    users = request["users"]
    # A thread a user: looking up policy lines must not wait for threads that wait for the model.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(users + 2))
    job = DistillationJob.model_validate(request["job"]) if request["job"] else None
    contestant = Contestant(request["name"], request["role"], job)
    conversations = read_conversations(Path(request["data"]))
    model = open_model(contestant.name, OpenOptions(**request["options"]))
    crowd = Crowd(model, contestant.prompting(), conversations, LoadSettings(**request["settings"]), users)
    window = await crowd.measure()
    local = model.parameters is not None
    result = {
        "requests": [asdict(timed) for timed in window.requests],
        "window_s": window.window_s,
        "cpu_s": window.cpu_s if local else None,
        "users_cpu_s": window.users_cpu_s,
        "others_share": window.others_share if local else None,
        "peak_memory_mb": peak_memory_bytes() / 1e6 if local else None,
        "weights_mb": model.weights_bytes / 1e6 if model.weights_bytes else None,
        "parameters": model.parameters,
        "identity": model.identity,
    }
    await model.aclose()
    watching.cancel()
    return result


def _busy_s() -> float:
    """Processor seconds that all programs on this machine have taken, and those that its host gave to others."""
    import psutil

    times = psutil.cpu_times()._asdict()
    idle = ("idle", "iowait", "guest", "guest_nice")  # a guest's are in the user's as well
    return sum(seconds for kind, seconds in times.items() if kind not in idle)


async def _end_with(parent: int) -> None:
    """A killed parent's level ends: nobody waits for it, and it would disturb the next one."""
    while os.getppid() == parent:
        await asyncio.sleep(1)
    os._exit(1)


def walk(conversations: Sequence[Conversation], user: int, users: int, seed: int) -> Iterator[Conversation]:
    """The conversations of one user, without end. Pure.

    First its share of one shuffled list: nobody has had these before, so that no cache knows them. Then all of them,
    in orders of its own.
    """
    shuffled = random.Random(seed).sample(list(conversations), len(conversations))
    yield from shuffled[user::users]
    own = random.Random(f"{seed}.{user}")
    while True:
        yield from own.sample(shuffled, len(shuffled))


class Crowd:
    """`users` in a closed loop on `model`."""

    def __init__(
        self,
        model: ChatModel,
        prompting: Prompting,
        conversations: Sequence[Conversation],
        settings: LoadSettings,
        users: int,
    ) -> None:
        self._model, self._prompting, self._conversations = model, prompting, conversations
        self._settings, self._users = settings, users
        self._ended: list[TimedRequest] = []
        self._under_way: dict[int, float] = {}  # by user, when it was sent
        self._begun: set[str] = set()
        self._news = asyncio.Event()

    async def measure(self) -> Window:
        """Raises nothing that a request does: its error is in its row."""
        settings, clock = self._settings, asyncio.get_running_loop().time
        await self._warm_up()
        async with asyncio.TaskGroup() as group:
            users = [group.create_task(self._live(number)) for number in range(self._users)]
            await self._until(lambda: len({timed.user for timed in self._ended}) == self._users)
            # The users live in this thread alone; policy lines and local models are worked on in others.
            opened, cpu, own_cpu, busy = clock(), time.process_time(), time.thread_time(), _busy_s()
            await asyncio.sleep(settings.seconds)
            try:
                async with asyncio.timeout_at(opened + _LONGEST * settings.seconds):
                    await self._until(lambda: self._replies_since(opened) >= settings.min_replies)
            except TimeoutError:
                pass
            closed, cpu, own_cpu = clock(), time.process_time() - cpu, time.thread_time() - own_cpu
            others = max(0.0, _busy_s() - busy - cpu) / ((closed - opened) * (os.cpu_count() or 1))
            await self._until(lambda: not any(opened <= sent < closed for sent in self._under_way.values()))
            for user in users:
                user.cancel()
        rows = [TimedRequest(**{**vars(timed), "sent_s": timed.sent_s - opened}) for timed in self._ended]
        return Window(rows, closed - opened, cpu, own_cpu, others)

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            self._news.clear()
            await self._news.wait()

    def _replies_since(self, moment: float) -> int:
        return sum(timed.sent_s >= moment for timed in self._ended)

    async def _warm_up(self) -> None:
        """The model's first request, which is like no other. The conversation is the last that anyone comes to."""
        *_, last = random.Random(self._settings.seed).sample(list(self._conversations), len(self._conversations))
        try:
            request = await self._request(last, last.turns(), [], [], max_tokens=8)
            async with asyncio.timeout(self._settings.timeout_s), aclosing(self._model.stream(request)) as stream:
                async for _ in stream:
                    pass
        except (DistillerError, TimeoutError):
            pass  # what fails here fails again where it is counted

    async def _live(self, number: int) -> None:
        think = self._settings.think_s
        await asyncio.sleep((think or _SPREAD_S) * number / self._users)
        own = walk(self._conversations, number, self._users, self._settings.seed)
        for visit, conversation in enumerate(own):
            repeated = conversation.id in self._begun
            self._begun.add(conversation.id)
            replies: list[str] = []
            policy: list[str] = []
            turns = conversation.turns()
            for _ in turns:
                reply = await self._ask(number, visit, conversation, turns, replies, policy, repeated)
                if reply is None:  # without it the conversation cannot go on
                    await asyncio.sleep(max(think, _AFTER_ERROR_S))
                    break
                replies.append(reply if self._settings.own_history else turns[len(replies)].reference or reply)
                await asyncio.sleep(think)

    async def _ask(
        self,
        number: int,
        visit: int,
        conversation: Conversation,
        turns: Sequence[Turn],
        replies: Sequence[str],
        policy: list[str],
        repeated: bool,
    ) -> str | None:
        """The reply to the turn after `replies`; None where there is none. Notes the request."""
        clock = asyncio.get_running_loop().time
        completion: Completion | None = None
        error: str | None = None
        first: float | None = None
        sent = ended = clock()
        self._under_way[number] = sent
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                request = await self._request(conversation, turns, replies, policy)
                async with aclosing(self._model.stream(request)) as stream:
                    async for item in stream:
                        ended = clock()
                        if isinstance(item, Completion):
                            completion = item
                        elif first is None and item.strip():
                            first = ended
            if completion is None:
                error = "the stream ended without a reply"
        except TimeoutError:
            error = f"no whole reply in {self._settings.timeout_s:g} s"
        except DistillerError as failed:
            error = str(failed).removeprefix(f"{self._model.name}: ").rstrip(".")
        finally:
            del self._under_way[number]
        if error is not None:
            ended, completion = clock(), None
        self._ended.append(
            TimedRequest(
                user=number,
                visit=visit,
                conversation=conversation.id,
                turn=len(replies),
                repeated=repeated,
                sent_s=sent,
                ttft_s=first - sent if first is not None else None,
                latency_s=ended - sent,
                prompt_tokens=completion.prompt_tokens if completion else None,
                completion_tokens=completion.completion_tokens if completion else None,
                error=error,
            )
        )
        self._news.set()
        return TASKS[self._prompting.task].parse(completion.text) if completion else None

    async def _request(
        self,
        conversation: Conversation,
        turns: Sequence[Turn],
        replies: Sequence[str],
        policy: list[str],
        max_tokens: int | None = None,
    ) -> ChatRequest:
        """That of the turn after `replies`; the policy text of this turn is appended to `policy`."""
        turn, prompting = len(replies), self._prompting
        text = ""
        if prompting.policies is not None:
            bare = history(turns, replies, turn, None)
            text = (await asyncio.to_thread(prompting.policy_texts, [bare], [conversation.id]))[0]
        policy.append(text)
        messages = prompting.messages(turns, replies, turn, policy, conversation.system)
        sampling = Sampling(max_tokens=max_tokens or self._settings.max_tokens)
        return ChatRequest(messages=messages, sampling=sampling)


if __name__ == "__main__":
    answer_parent(_measure)
