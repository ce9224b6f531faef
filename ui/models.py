"""Who can be picked, and the opened models that all visitors share.

Opening a model takes seconds and hundreds of megabytes, so it happens once for all visitors; and only
a few stay open, because every run adds models and the machine's memory does not grow.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from distiller.chat import ChatModel, OpenOptions
from distiller.errors import DataError, DistillerError, ModelError
from distiller.job import load_job
from distiller.prompting import Prompting
from distiller.runs import list_runs, resolve_model
from distiller.schema import Conversation, Message
from evals.contestants import Contestant, by_name, of_run
from evals.labels import ROLE_LABELS
from ui.access import Visitor, started_by, visible_runs
from ui.job_form import QUICKSTART
from ui.zero_gpu import open_here

DEFAULT_TEACHER = "bundled:fernhill-support-135m"
SHIPPED_STUDENT = "bundled:fernhill-student"
UNTRAINED = "bundled:smollm2-135m-instruct"
SHIPPED_LABELS = {
    SHIPPED_STUDENT: "Student of the shop (17M)",
    DEFAULT_TEACHER: "Teacher of the shop (135M)",
    UNTRAINED: "Untrained model (135M)",
}


def offered(visitor: Visitor | None = None) -> dict[str, Contestant]:
    """Every contestant there is, by name: those of the runs, newest first, then the three that need no run.

    No other name is opened, so nobody makes the server read a folder or call a host. A run whose job
    cannot be read offers none. Without `visitor`, private runs are among them.
    """
    found: dict[str, Contestant] = {}
    for run in list_runs() if visitor is None else visible_runs(visitor):
        try:
            found |= {contestant.name: contestant for contestant in of_run(run)}
        except DistillerError:
            continue  # written by another version, or by hand: no reason to take the page down
    return found | {contestant.name: contestant for contestant in _shipped()}


@lru_cache(maxsize=1)
def _shipped() -> tuple[Contestant, ...]:
    """Read once: they ship, and this is asked before every reply."""
    job = load_job(QUICKSTART, check_files=False)
    return (
        by_name(SHIPPED_STUDENT),
        Contestant(DEFAULT_TEACHER, "teacher", job),
        Contestant(UNTRAINED, "untouched", job),
    )


def blind_pool() -> list[str]:
    """Who meets in blind battles: all of the newest complete run, and the students of the others of its shop.

    Before there is one: those that ship. Private runs take no part.
    """
    contestants = offered()
    runs = [run for run in list_runs() if run.manifest is not None and not started_by(run)[1]]
    complete = [run for run in runs if f"run:{run.id}/student" in contestants]
    if not complete:
        return [contestant.name for contestant in _shipped()]
    newest = complete[0].job
    pool = [
        name for name in contestants if name.startswith(f"run:{complete[0].id}/") and _can_answer(contestants[name])
    ]
    for run in complete[1:]:
        if (run.job.retrieval.policies, run.job.system_prompt) == (newest.retrieval.policies, newest.system_prompt):
            pool.append(f"run:{run.id}/student")
    return pool


def draw_pair(pool: Sequence[str]) -> tuple[str, str]:
    """Two different ones on random sides, one of them a student or a teacher: nobody learns from two that are untrained."""
    chance = secrets.SystemRandom()
    pairs = [
        (a, b) for a in pool for b in pool if a != b and any(_role(name) in {"student", "teacher"} for name in (a, b))
    ]
    return chance.choice(pairs) if pairs else (pool[0], pool[-1])


def label_of(name: str) -> str:
    """What a person calls a contestant: its role and its run."""
    if name.startswith("run:"):
        run, _, role = name.removeprefix("run:").partition("/")
        return f"{ROLE_LABELS.get(role, role)} ({run})"
    return SHIPPED_LABELS.get(name, name)


def _role(name: str) -> str | None:
    if name.startswith("run:"):
        return name.rpartition("/")[2]
    return next((contestant.role for contestant in _shipped() if contestant.name == name), None)


def _can_answer(contestant: Contestant) -> bool:
    """An API model needs the key that the owner of the page has set."""
    job = contestant.job
    calls = contestant.role == "teacher" and job is not None and job.teacher_model.startswith("openai:")
    return not calls or bool(os.environ.get(job.teacher_key_variable))  # type: ignore[union-attr]


def default_pair(names: Sequence[str]) -> tuple[str, str]:
    """The newest student against its teacher; before there is one, those that ship."""
    student = next((name for name in names if name.endswith("/student")), None)
    if student is None:
        return SHIPPED_STUDENT, DEFAULT_TEACHER
    return student, student.removesuffix("/student") + "/teacher"


@dataclass(frozen=True)
class Opened:
    """A model that is ready, and what it is told."""

    model: ChatModel
    prompting: Prompting
    # Tokenizers refuse to be borrowed by two threads at once, and all lookups share one encoder.
    searching: threading.Lock

    async def messages(self, past: Sequence[Message], query: str) -> list[Message]:
        """What the model sees before it answers `query`, its policy text included."""
        return await asyncio.to_thread(self._messages, past, query)

    def _messages(self, past: Sequence[Message], query: str) -> list[Message]:
        said = Conversation(id="chat", messages=[*past, Message(role="user", content=query)])
        with self.searching:
            [policy] = self.prompting.reference_policies([said])
        turns = said.turns()
        return self.prompting.messages(turns, [t.reference or "" for t in turns], len(turns) - 1, policy, None)


@dataclass(frozen=True)
class _Key:
    """What makes two names one model: what they stand for, how it is opened, and when it was written."""

    model: str
    options: OpenOptions
    written_ns: int


@dataclass
class _Entry:
    opening: asyncio.Task[ChatModel]
    users: int = 0

    @property
    def idle(self) -> bool:
        return self.users == 0 and self.opening.done()

    @property
    def broken(self) -> bool:
        return self.opening.done() and (self.opening.cancelled() or self.opening.exception() is not None)


@dataclass
class ModelCache:
    """Opened models, the least recently used closed first. At most `limit` stay open beside those in use.

    All bookkeeping happens on the event loop between two awaits, which is why it needs no lock.
    """

    limit: int = 3
    #: Conversations that are answered at once: each keeps two models busy, and more would slow them all.
    seats: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(2))
    _entries: dict[_Key, _Entry] = field(default_factory=dict)
    _prompts: dict[tuple[str, bool], Prompting] = field(default_factory=dict)
    # transformers' loaders set process-wide defaults while they work: one at a time.
    _loading: threading.Lock = field(default_factory=threading.Lock)
    _searching: threading.Lock = field(default_factory=threading.Lock)
    _warming: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def lease(self, name: str) -> AsyncIterator[Opened]:
        """The model `name`, held open until the block ends. Raises DistillerError where it cannot be opened."""
        contestant, key = await asyncio.to_thread(_look_up, name)
        entry = self._entries.pop(key, None)
        if entry is None or entry.broken:
            entry = _Entry(asyncio.create_task(asyncio.to_thread(self._open, name, key)))
        self._entries[key] = entry  # last in order: the most recently used
        entry.users += 1
        try:
            await self._close_idle()  # before the next one takes its memory
            # Shielded: a visitor who presses Stop must not take the model from another who waits for it.
            model = await asyncio.shield(entry.opening)
            prompting = await asyncio.to_thread(self._prompting, contestant)
            yield Opened(model, prompting, self._searching)
        finally:
            entry.users -= 1
            if entry.broken and self._entries.get(key) is entry:
                del self._entries[key]  # the next visitor tries again
            await self._close_idle()

    def warm(self, names: Sequence[str]) -> None:
        """Opens `names` in the background, the first time: the first visitor reads while they load."""
        if self._warming is None:
            self._warming = asyncio.create_task(self._warm(names))

    async def _warm(self, names: Sequence[str]) -> None:
        for name in names:
            with suppress(DistillerError):  # whoever asks it will read why
                async with self.lease(name):
                    pass

    def _open(self, name: str, key: _Key) -> ChatModel:
        with self._loading:
            return open_here(name, key.options)

    def _prompting(self, contestant: Contestant) -> Prompting:
        key = (contestant.name.partition("/")[0], contestant.role == "teacher")  # all but the teacher are told the same
        with self._loading:  # where policies are looked up they are embedded: seconds, and a model of its own
            if key not in self._prompts:
                try:
                    made = contestant.prompting()
                except OSError as error:
                    raise DataError(f"{error.filename}: the policies cannot be read ({error.strerror}).") from None
                while len(self._prompts) >= 2 * self.limit:
                    del self._prompts[next(iter(self._prompts))]
                self._prompts[key] = made
            return self._prompts[key]

    async def _close_idle(self) -> None:
        for key in list(self._entries):
            if len(self._entries) <= self.limit:
                break
            entry = self._entries.get(key)
            if entry is not None and entry.idle:  # asked anew each time: closing one may let another visitor in
                del self._entries[key]
                if not entry.broken:
                    await entry.opening.result().aclose()


def _look_up(name: str) -> tuple[Contestant, _Key]:
    contestant = offered().get(name)
    if contestant is None:
        raise ModelError(f"{name} is not offered here any more. Pick another contestant.")
    job, model = contestant.job, contestant.name
    while model.startswith("run:"):  # a teacher may itself be a model of another run
        model = resolve_model(model.removeprefix("run:"))
    options = OpenOptions()
    if job is not None:
        options = OpenOptions(job.precision, job.max_batch, job.teacher_key_variable, job.teacher_concurrency)
    folder = Path(model.removeprefix("hf:"))
    files = list(folder.iterdir()) if model.startswith("hf:") and folder.is_dir() else []
    return contestant, _Key(model, options, max((file.stat().st_mtime_ns for file in files), default=0))
