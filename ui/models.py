"""Who can be picked, and the opened models that all visitors share.

Opening a model takes seconds and hundreds of megabytes, so it happens once for all visitors; and only
a few stay open, because every run adds models and the machine's memory does not grow.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from distiller.chat import ChatModel, OpenOptions, open_model
from distiller.errors import DataError, DistillerError, ModelError
from distiller.job import DistillationJob
from distiller.prompting import Prompting
from distiller.runs import list_runs, resolve_model
from distiller.schema import Conversation, Message
from evals.contestants import Contestant, by_name, of_run

BUNDLED = "bundled:smollm2-135m-instruct"


def run_contestants() -> list[Contestant]:
    """The contestants of every run, newest run first. A run whose job cannot be read offers none."""
    found: list[Contestant] = []
    for run in list_runs():
        try:
            found += of_run(run)
        except DistillerError:
            continue  # written by another version, or by hand: no reason to take the page down
    return found


def contestant_names() -> list[str]:
    """Every name a visitor may pick; no other is opened, so nobody makes the server read a folder or call a host."""
    return [*(contestant.name for contestant in run_contestants()), BUNDLED]


def default_pair(names: Sequence[str]) -> tuple[str, str]:
    """The newest student against its teacher; without one, the bundled model against itself."""
    student = next((name for name in names if name.endswith("/student")), None)
    if student is None:
        return BUNDLED, BUNDLED
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

    def _open(self, name: str, key: _Key) -> ChatModel:
        with self._loading:
            return open_model(name, key.options)

    def _prompting(self, contestant: Contestant) -> Prompting:
        if contestant.job is None:
            return contestant.prompting(_newest_system_prompt())
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
    if name not in contestant_names():
        raise ModelError(f"{name} is not offered here any more. Pick another contestant.")
    contestant = by_name(name)
    job, model = contestant.job, contestant.name
    while model.startswith("run:"):  # a teacher may itself be a model of another run
        model = resolve_model(model.removeprefix("run:"))
    options = OpenOptions()
    if job is not None:
        options = OpenOptions(job.precision, job.max_batch, job.teacher_key_variable, job.teacher_concurrency)
    folder = Path(model.removeprefix("hf:"))
    files = list(folder.iterdir()) if model.startswith("hf:") and folder.is_dir() else []
    return contestant, _Key(model, options, max((file.stat().st_mtime_ns for file in files), default=0))


def _newest_system_prompt() -> str:
    """What a model of no run is told, so that it plays the same part as those it is compared with."""
    newest = next((contestant.job for contestant in run_contestants() if contestant.job), None)
    return newest.system_prompt if newest else DistillationJob.model_fields["system_prompt"].default
