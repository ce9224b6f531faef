"""How far a run or an evaluation is, read from its events as they are appended."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from distiller.work import worker_of

WorkState = Literal["queued", "running", "complete", "failed", "stopped"]
_NOTES = 200


@dataclass
class Bar:
    """A step that is under way: `done` of `total` `unit`s, `rate` a second, `left_s` seconds to go."""

    label: str
    done: int
    total: int
    unit: str
    rate: float | None = None
    left_s: float | None = None
    final: bool = False


@dataclass
class Watch:
    """What the events of `folder` say so far; `refresh` reads on from where it stopped."""

    folder: Path
    stage: str | None = None
    bar: Bar | None = None
    #: Of the last start: waits for its turn, works, or why it ended.
    last: Literal["queued", "start", "done", "failed", "stopped", ""] = ""
    reason: str = ""
    notes: list[str] = field(default_factory=list)
    #: The mean training loss since the one before: {label, step, loss}.
    losses: list[dict[str, Any]] = field(default_factory=list)
    #: {label, epoch, step, train, validation}; the last two by the names of the losses.
    epochs: list[dict[str, Any]] = field(default_factory=list)
    #: split → {replies, prompt_tokens, completion_tokens} of the teacher.
    spend: dict[str, dict[str, int]] = field(default_factory=dict)
    began: float | None = None
    ended: float | None = None
    _offset: int = 0
    _process: int | None = None

    def refresh(self) -> Watch:
        path = self.folder / "events.jsonl"
        if not path.exists():
            return self
        with path.open("rb") as file:
            file.seek(self._offset)
            content = file.read()
        # A line that is being written is read the next time.
        whole = content[: content.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            try:
                self._take(json.loads(line))
            except (ValueError, KeyError, TypeError):
                continue  # torn by a killed process
        return self

    @property
    def state(self) -> WorkState:
        """`stopped` is also what was killed: it goes on when it is started again."""
        if worker_of(self.folder) is not None:
            return "queued" if self.last == "queued" else "running"
        if self.last == "failed":
            return "failed"
        return "complete" if self.last == "done" else "stopped"

    @property
    def seconds(self) -> float | None:
        """Since the process began that works or worked here last, until now or its end."""
        if self.began is None:
            return None
        working = worker_of(self.folder) is not None
        return (time.time() if working else self.ended or self.began) - self.began

    def _take(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        self.ended = event["time"]
        if kind in {"queued", "start", "done", "failed", "stopped"}:
            self.last, self.reason, self.bar = kind, event.get("reason", ""), None
            if kind in {"queued", "start"} and event.get("pid") != self._process:
                self._process, self.began = event.get("pid"), event["time"]
        elif kind == "stage":
            self.stage, self.bar = event["stage"], None
        elif kind == "progress":
            self.bar = Bar(**{known.name: event[known.name] for known in fields(Bar)})
        elif kind == "note":
            self.notes.append(event["text"])
            del self.notes[:-_NOTES]
        elif kind == "spend":
            self.spend[event["split"]] = event["tokens"]
        elif kind == "loss":
            self.losses.append({name: event[name] for name in ("label", "step", "loss")})
        elif kind == "epoch":
            self.epochs.append({name: event[name] for name in ("label", "epoch", "step", "train", "validation")})
