"""What a person watches while long work runs: a bar with a rate and the time left, and events.jsonl.

Every stage reports through one Progress; the bar goes to the terminal, the same figures go to the
run's append-only event file, where the app reads them.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from distiller.errors import DistillerError

console = Console(stderr=True)
# The libraries' own bars say nothing to the person who waits, and break ours.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
# Large blocks in large pages: a sixth faster training on a CPU (measured; PyTorch reads this at its first block).
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
_EVENT_EVERY_S = 1.0


class _Rate(ProgressColumn):
    def render(self, task: Any) -> Text:
        speed = task.finished_speed or task.speed
        unit = task.fields.get("unit", "items")
        return Text("" if speed is None else f"{speed:,.1f} {unit}/s", style="cyan")


class Progress:
    """Reports of one run. `events` None reports to the terminal alone (or not at all, with quiet)."""

    def __init__(self, events: Path | None = None, *, quiet: bool = False) -> None:
        self.events, self.quiet = events, quiet

    def event(self, kind: str, **fields: Any) -> None:
        if self.events is None:
            return
        self.events.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"time": round(time.time(), 3), "event": kind, **fields}, ensure_ascii=False)
        with self.events.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def say(self, text: str, **fields: Any) -> None:
        """A line for the person, also kept as an event."""
        if not self.quiet:
            console.print(text, highlight=False)
        self.event("note", text=Text.from_markup(text).plain, **fields)

    @contextmanager
    def work(self) -> Iterator[None]:
        """Says when a piece of work starts, and how it ends: done, stopped, or failed and why."""
        self.event("start", pid=os.getpid())
        try:
            yield
        except KeyboardInterrupt:
            self.event("stopped")
            raise
        except Exception as error:
            reason = str(error) if isinstance(error, DistillerError) else f"{type(error).__name__}: {error}"
            self.event("failed", reason=reason)
            raise
        self.event("done")

    @contextmanager
    def track(self, label: str, total: int, unit: str) -> Iterator[Tracker]:
        with RichProgress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(compact=True),
            console=console,
            disable=self.quiet,
        ) as bar:
            task = bar.add_task(label.ljust(34), total=total, unit=unit)
            tracker = Tracker(self, bar, task, label, total, unit)
            yield tracker
            tracker.report(final=True)


class Tracker:
    def __init__(self, progress: Progress, bar: RichProgress, task: Any, label: str, total: int, unit: str) -> None:
        self._progress, self._bar, self._task = progress, bar, task
        self._label, self._total, self._unit = label, total, unit
        self._done, self._started = 0, time.monotonic()
        self.report()  # whoever watches sees what begins, before its first item is done
        self._reported = 0.0

    def advance(self, n: int = 1) -> None:
        self._done += n
        self._bar.advance(self._task, n)
        if time.monotonic() - self._reported >= _EVENT_EVERY_S:
            self.report()

    def report(self, *, final: bool = False) -> None:
        self._reported = time.monotonic()
        elapsed = self._reported - self._started
        rate = self._done / elapsed if elapsed > 0 else None
        left = (self._total - self._done) / rate if rate else None
        self._progress.event(
            "progress",
            label=self._label,
            done=self._done,
            total=self._total,
            unit=self._unit,
            rate=rate and round(rate, 3),
            left_s=left and round(left, 1),
            final=final,
        )
