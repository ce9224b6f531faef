"""The data that the Data tab shows: a run's synthetic turns joined with their references and drop reasons.

A data set is read once and kept by `DataCache` until its files change: 50,000 turns take seconds to read and more
than 100 MB to hold, too much for every visit, and nobody changes what was read. What a visitor chose is no part of it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from distiller.curate import BY_HAND
from distiller.edits import APPLIED, SPLITS, Edit, by_turn, read_edits
from distiller.errors import DataError
from distiller.jobs import state_of
from distiller.runs import Run, find_run
from distiller.schema import Conversation, Message

DATA_SETS = Path(__file__).parents[1] / "datasets"

# What became of a turn, in the words of the page. A drop reason stands for itself.
KEPT, REPLACED, UNRECORDED = "kept", "replaced by the reference", "reason not recorded"
UNCHECKED, UNANSWERED, REFERENCE = "not checked yet", "no reply yet", "reference only"

#: split, conversation, turn (from 0).
Key = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class Row:
    """One turn. `reply`: the teacher's own words; None where there is none. `status`: as the run left it."""

    split: str
    conversation: str
    turn: int
    turns: int
    intent: str
    query: str
    reply: str | None
    reference: str | None
    facts: tuple[tuple[str, ...], ...] = ()
    forbidden: tuple[tuple[str, ...], ...] = ()
    policy: str = ""
    status: str = REFERENCE
    #: Why the reference took the reply's place, where it did.
    reason: str = ""

    @property
    def key(self) -> Key:
        return self.split, self.conversation, self.turn


@dataclass(frozen=True)
class Data:
    """The turns of one source in the order of its files; those of a conversation stand together."""

    source: str
    rows: tuple[Row, ...]
    #: What is unusual about it, in words: still under way, or nothing there yet.
    note: str = ""
    run: Run | None = None
    #: The hand edits that the run was made with.
    applied: Mapping[Key, Edit] = field(default_factory=dict)

    @property
    def has_replies(self) -> bool:
        return self.run is not None


def sources(runs: Sequence[Run], *, unfinished: bool = True) -> list[tuple[str, str]]:
    """(label, source) of what can be browsed: `runs`, then the shipped conversations.

    `unfinished` False: only runs that are complete.
    """
    found = []
    for run in runs:
        try:
            state = state_of(run)
        except (OSError, ValueError):
            state = "cannot be read"
        if unfinished or state == "complete":
            found.append((f"{run.id} ({state})", f"run:{run.id}"))
    for path in sorted(DATA_SETS.glob("*/*.jsonl")):
        found.append((f"References alone: {path.parent.name}, {path.stem}", f"data:{path.parent.name}/{path.stem}"))
    return found


class DataCache:
    """What was read last, shared by all visitors: it is what the files say, and never changed here."""

    def __init__(self, limit: int = 2) -> None:
        self.limit = limit
        self._kept: dict[str, tuple[object, Data]] = {}
        self._reading = threading.Lock()

    def get(self, source: str, *, fresh: bool = False) -> Data:
        """The data of `source`; with `fresh` read again where its files have changed. Raises DistillerError.

        Without, a page goes on with what it shows: a teacher that is answering changes its file every second.
        """
        with self._reading:
            stamp, data = self._kept.pop(source, (None, None))
            if data is None or (fresh and stamp != _stamp(source)):
                stamp = _stamp(source)  # before the reading: what is written meanwhile is read next time
                data = read_source(source)
            self._kept[source] = stamp, data
            while len(self._kept) > self.limit:
                del self._kept[next(iter(self._kept))]
            return data


def _files(source: str) -> list[Path]:
    kind, _, name = source.partition(":")
    if kind == "data":
        return [DATA_SETS / f"{name}.jsonl"]
    run = find_run(name)
    names = [f"{stem}.{split}.jsonl" for stem in ("synthetic", "curated") for split in SPLITS]
    data = [run.path("data", f"{split}.jsonl") for split in SPLITS]
    return [*data, *(run.path(name) for name in [*names, "dropped.jsonl"]), run.path(*APPLIED)]


def _stamp(source: str) -> list[tuple[int, int]]:
    stamps = []
    for path in _files(source):
        try:
            stat = path.stat()
        except OSError:
            continue
        stamps.append((stat.st_mtime_ns, stat.st_size))
    return stamps


def read_source(source: str) -> Data:
    """Every turn of `source` (one of `sources`). Raises DistillerError where it cannot be read."""
    if source.startswith("data:"):
        [path] = _files(source)
        return Data(source, tuple(row for line in _lines(path) for row in _rows(path.stem, _conversation(line))))
    run = find_run(source.removeprefix("run:"))
    try:
        return _read_run(source, run)
    except OSError as error:
        raise DataError(
            f"{error.filename}: cannot be read ({error.strerror}). Check who may read the folder."
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"Run {run.id}: its files are not as a run writes them ({error}).") from None


def _read_run(source: str, run: Run) -> Data:
    rows: list[Row] = []
    for split in SPLITS:
        answered = {line["id"]: _answers(line) for line in _lines(run.path(f"synthetic.{split}.jsonl"))}
        for line in _lines(run.path("data", f"{split}.jsonl")):
            rows += _rows(split, _conversation(line), *answered.get(line["id"], ()))
    edits = read_edits(run.path(*APPLIED)) if run.path(*APPLIED).exists() else []
    applied = keyed(by_turn(edits, turns_of(rows)))
    rows = _judged(run, rows, applied)
    return Data(source, tuple(rows), _note(rows), run, applied)


def _judged(run: Run, rows: Sequence[Row], applied: Mapping[Key, Edit]) -> list[Row]:
    """The rows with what curation decided about them."""
    curated = {split: run.path(f"curated.{split}.jsonl") for split in SPLITS}
    checked = {split for split in SPLITS if curated[split].exists()}
    dropped = {(row["split"], row["conversation"], row["turn"]): row for row in _lines(run.path("dropped.jsonl"))}
    # Without dropped.jsonl, which is written last, the curated conversations say what is kept.
    recorded, keep = run.path("dropped.jsonl").exists(), set()
    if not recorded:
        for split in checked:
            for line in _lines(curated[split]):
                keep |= {(split, line["id"], t) for t, kept in enumerate(line["metadata"]["keep"]) if kept}

    def judged(row: Row) -> tuple[str, str]:
        if row.reply is None:
            return UNANSWERED, ""
        if row.split not in checked:
            return UNCHECKED, ""
        if drop := dropped.get(row.key):
            return REPLACED if drop["replaced"] else drop["reason"], drop["reason"]
        if not recorded and row.key not in keep:
            return UNRECORDED, UNRECORDED
        edit = applied.get(row.key)
        return BY_HAND[edit.action] if edit else KEPT, ""

    found = []
    for row in rows:
        status, reason = judged(row)
        found.append(replace(row, status=status, reason=reason))
    return found


def turns_of(rows: Sequence[Row]) -> dict[str, dict[str, int]]:
    """For each split the number of turns by conversation, as `edits.by_turn` takes it."""
    found: dict[str, dict[str, int]] = {split: {} for split in SPLITS}
    for row in rows:
        found[row.split][row.conversation] = row.turns
    return found


def _conversation(line: dict[str, Any]) -> Conversation:
    """Not validated again: what stands in these files was, and of 50,000 turns that would take most of the time."""
    messages = [Message.model_construct(role=m["role"], content=m["content"]) for m in line["messages"]]
    return Conversation.model_construct(id=line["id"], messages=messages, metadata=line.get("metadata") or {})


def _answers(line: dict[str, Any]) -> tuple[list[str], list[str]]:
    """The teacher's replies and the policy text that it was given, by turn."""
    replies = [turn.reference or "" for turn in _conversation(line).turns()]
    return replies, line["metadata"].get("policy") or []


def _rows(split: str, conversation: Conversation, replies: Sequence[str] = (), policy: Sequence[str] = ()) -> list[Row]:
    turns = conversation.turns()
    return [
        Row(
            split=split,
            conversation=conversation.id,
            turn=turn.index,
            turns=len(turns),
            intent=conversation.intent or "",
            query=turn.query,
            reply=replies[turn.index] if turn.index < len(replies) else None,
            reference=turn.reference,
            facts=turn.facts,
            forbidden=turn.forbidden,
            policy=policy[turn.index] if turn.index < len(policy) else "",
        )
        for turn in turns
    ]


def _note(rows: Sequence[Row]) -> str:
    if not rows:
        return "This run has not read its conversations yet. Press Refresh in a moment."
    unanswered = sum(row.status == UNANSWERED for row in rows)
    if unanswered:
        done = len(rows) - unanswered
        return f"The teacher has answered {done:,} of {len(rows):,} questions so far. Refresh shows what came since."
    if any(row.status == UNCHECKED for row in rows):
        return "The teacher has answered; its replies have not been checked yet. Refresh shows what came since."
    return ""


def _lines(path: Path) -> list[dict[str, Any]]:
    """A file that may be half written, or absent. Raises DataError for one that is not as we write it."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). Check who may read it.") from None
    found = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                found.append(from_json(line))
            except ValueError:
                if number == len(lines):
                    break  # it is being written at this moment
                raise DataError(f"{path}:{number}: not JSON. Mend the line, or make the run again.") from None
    return found


def keyed(edits: Mapping[Any, Mapping[tuple[str, int], Edit]]) -> dict[Key, Edit]:
    return {(split, *place): edit for split, found in edits.items() for place, edit in found.items()}
