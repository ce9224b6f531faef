"""Work that outlives whoever started it: a process of its own for a folder, and how it is stopped.

The process that works in a folder (a run's, an evaluation's) is named in its `.worker`; the lock
beside it keeps a second one out. What the process says is in `log.txt`, how far it is in `events.jsonl`.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from distiller.errors import RunError
from distiller.schema import write_text

LOG = "log.txt"
_WORKER, _LOCK = ".worker", ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process a folder. Raises RunError where another one works in it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"Run {folder.name} is being worked on by another process. Wait for it, or stop it."
            ) from None
        named = worker_of(folder) == psutil.Process()  # by who started it, or by a step around this one
        _name_worker(folder, psutil.Process())
        try:
            yield
        finally:
            if not named:
                (folder / _WORKER).unlink(missing_ok=True)


@contextmanager
def in_turn(folder: Path) -> Iterator[None]:
    """Waits until no other process is inside the same `folder`'s turn: work that would slow each other down."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".turn").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def start_work(folder: Path, arguments: Sequence[str]) -> None:
    """Starts `python -m ARGUMENTS` for `folder`, in a session of its own: it goes on when this process ends.

    Raises RunError where a process works there already.
    """
    if worker_of(folder) is not None:
        raise RunError(f"Run {folder.name} is being worked on already. Wait for it, or stop it.")
    folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "NO_COLOR": "1"}
    with (folder / LOG).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=environment,
        )
    # Named before it names itself, which takes it the seconds of its imports.
    if process.poll() is None:
        _name_worker(folder, psutil.Process(process.pid))


def worker_of(folder: Path) -> psutil.Process | None:
    """The process that works in `folder`, if one does."""
    try:
        named = json.loads((folder / _WORKER).read_text("utf-8"))
        process = psutil.Process(named["pid"])
        # A number is given again after its process: the start tells them apart.
        if process.create_time() != named["started"] or process.status() == psutil.STATUS_ZOMBIE:
            return None
        return process
    except (OSError, ValueError, KeyError, psutil.Error):
        return None


def stop_work(folder: Path, *, patience_s: float = 20.0) -> bool:
    """Asks the process in `folder` to stop as Ctrl-C does, ends it after `patience_s`; False where none works there.

    What was done stays: the same work started again goes on from there.
    """
    process = worker_of(folder)
    if process is None:
        return False
    family = [process, *process.children(recursive=True)]
    for asked in (signal.SIGINT, signal.SIGKILL):
        for member in family:
            try:
                member.send_signal(asked)
            except psutil.NoSuchProcess:
                continue
        _, family = psutil.wait_procs(family, timeout=patience_s)
        if not family:
            break
    return True


def _name_worker(folder: Path, process: psutil.Process) -> None:
    write_text(folder / _WORKER, json.dumps({"pid": process.pid, "started": process.create_time()}))
