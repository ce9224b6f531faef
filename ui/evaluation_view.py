"""What the Evaluation tab shows of reports and of evaluations under way. Reads files; knows no Gradio.

A report is found by its id, `RUN` or `evaluations/NAME`, among those that are there: an id is never made a path.
"""

from __future__ import annotations

import csv
import io
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distiller.errors import DataError
from distiller.runs import list_runs
from distiller.watch import Watch, WorkState
from distiller.work import LOG, worker_of
from evals.background import REQUEST, evaluations_folder
from evals.columns import REPORT_COLUMNS
from evals.labels import ROLE_LABELS, labels
from ui.uploads import uploads_folder

UNDER_WAY = ("queued", "running")
_NEEDED = ("title", "created", "data", "settings", "rows", "verdicts", "groups", "comparisons", "conversations")


@dataclass(frozen=True)
class Entry:
    """A report, or an evaluation that is to become one. `when`: seconds since 1970, of its last change."""

    id: str
    folder: Path
    state: WorkState
    title: str
    when: float
    created: str = ""
    turns: int = 0
    conversations: int = 0

    @property
    def label(self) -> str:
        """The line of the picker."""
        if self.state != "complete":
            words = {"queued": "Waiting", "running": "Running", "failed": "Failed", "stopped": "Stopped"}
            return f"{words[self.state]}: {self.title}"
        return f"{self.title} · {self.turns:,} turns · {day(self.created)}"


@dataclass
class Shelf:
    """Reports as they were read: all visitors look at the same ones, and nobody changes them.

    The last `limit` whole reports are kept, and of every one what its line in the list needs.
    """

    limit: int = 4
    _reports: dict[tuple[Path, int], dict[str, Any]] = field(default_factory=dict)
    _heads: dict[tuple[Path, int], dict[str, Any]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self, entry: Entry) -> dict[str, Any]:
        """The report of `entry`. Raises DataError in words."""
        path = entry.folder / "report.json"
        with self._lock:
            key = _version(path)
            report = self._reports.pop(key, None)
            if report is None:
                report = _parse(path)
            self._reports[key] = report  # last in order: the most recently read
            while len(self._reports) > self.limit:
                del self._reports[next(iter(self._reports))]
            return report

    def head(self, path: Path) -> dict[str, Any]:
        """created, turns, conversations, models of a report. Raises DataError."""
        with self._lock:
            key = _version(path)
            if key not in self._heads:
                report = self._reports.get(key) or _parse(path)
                self._heads[key] = {
                    "created": report["created"],
                    "turns": report["data"]["turns"],
                    "conversations": report["data"]["conversations"],
                    "models": list(name_of(report).values()),
                }
            return self._heads[key]


def list_reports(shelf: Shelf, *, owner: bool) -> list[Entry]:
    """Newest first: what is under way, then the rest. Visitors see the finished reports of runs: an evaluation of
    the owner's own may name addresses and show conversations that are not theirs to see."""
    folders = [run.folder for run in list_runs() if (run.folder / "report.json").exists()]
    entries = [entry for folder in folders if (entry := _run_entry(shelf, folder)) is not None]
    if owner:
        entries += [_evaluation_entry(shelf, path.parent) for path in evaluations_folder().glob(f"*/{REQUEST}")]
    return sorted(entries, key=lambda entry: (entry.state not in UNDER_WAY, -entry.when))


def find_report(shelf: Shelf, identity: str | None, *, owner: bool) -> Entry:
    """Raises DataError for one that is not there, or not for this visitor."""
    for entry in list_reports(shelf, owner=owner):
        if entry.id == identity:
            return entry
    raise DataError(f"There is no report {identity!r} here any more. Pick another one.")


def _run_entry(shelf: Shelf, folder: Path) -> Entry | None:
    path = folder / "report.json"
    try:
        head = shelf.head(path)
    except DataError:
        head = {"created": "", "turns": 0, "conversations": 0}  # picked, it says what is wrong with it
    return Entry(
        folder.name,
        folder,
        "complete",
        f"Run {folder.name}",
        path.stat().st_mtime,
        head["created"],
        head["turns"],
        head["conversations"],
    )


def _evaluation_entry(shelf: Shelf, folder: Path) -> Entry:
    identity, path = f"evaluations/{folder.name}", folder / "report.json"
    request = request_of(folder)
    models, data = request.get("models", []), Path(request.get("data", folder.name))
    watch = Watch(folder) if path.exists() and worker_of(folder) is None else Watch(folder).refresh()
    if path.exists() and (watch.last == "done" or worker_of(folder) is None):  # its process may take a while to end
        try:
            head = shelf.head(path)
        except DataError:
            head = {"created": "", "turns": 0, "conversations": 0, "models": models}
        title = f"{in_few_words(head['models'])} on {data_words(data)}"
        when, counts = path.stat().st_mtime, (head["created"], head["turns"], head["conversations"])
        return Entry(identity, folder, "complete", title, when, *counts)
    state: WorkState = "stopped" if watch.state == "complete" else watch.state  # done once, its report taken away
    title = f"{in_few_words([short_name(model) for model in models])} on {data_words(data)}"
    return Entry(identity, folder, state, title, (folder / REQUEST).stat().st_mtime)


def request_of(folder: Path) -> dict[str, Any]:
    """What an evaluation was asked for: {models, data, options}; empty where that cannot be read."""
    try:
        return json.loads((folder / REQUEST).read_text("utf-8"))
    except (OSError, ValueError):
        return {}


def why_it_ended(folder: Path, watch: Watch) -> str:
    """The reason of a failed or stopped evaluation in words; empty where someone stopped it."""
    if watch.reason or watch.last == "stopped":
        return watch.reason
    try:  # it ended before its first event, or was killed: what it printed last
        lines = (folder / LOG).read_text("utf-8", "replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1][:500] if lines else ""


def _version(path: Path) -> tuple[Path, int]:
    try:
        return path, path.stat().st_mtime_ns
    except OSError:
        raise DataError(f"The report of {path.parent.name} is not there any more. Pick another one.") from None


def _parse(path: Path) -> dict[str, Any]:
    try:
        report = json.loads(path.read_text("utf-8"))
        missing = [key for key in _NEEDED if key not in report]
        missing += [] if missing or report["rows"] else ["rows"]
        if not missing:
            return report
        reason = f"it has no {missing[0]!r}"
    except (OSError, ValueError, TypeError) as error:
        reason = str(error)
    raise DataError(
        f"The report of {path.parent.name} cannot be read ({reason}). Take report.json away and make it again: what "
        "the models answered is kept."
    ) from None


def short_name(model: str) -> str:
    """A model's name where there is little room: `run:ID/student` → `ID/student`, a path → its end."""
    scheme, _, rest = model.partition(":")
    if scheme == "openai":
        return rest.partition("@")[0]
    return rest if scheme in {"run", "bundled"} else rest.rstrip("/").rsplit("/", 1)[-1] or model


def name_of(report: dict[str, Any]) -> dict[str, str]:
    """Model → what it is called on the page: its role, or its name without the address or the folder, where that
    is enough to tell it from the others."""
    full = labels(report["rows"], ROLE_LABELS)
    short = {model: short_name(name) for model, name in full.items()}
    names = list(short.values())
    return {model: name if names.count(name) == 1 else full[model] for model, name in short.items()}


def in_few_words(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def data_words(path: Path) -> str:
    """What a data file is, by where it lies."""
    parts = path.parts
    if path.parent == uploads_folder():
        return f"{path.stem.rsplit('-', 1)[0]} (uploaded)"
    if len(parts) >= 3 and parts[-2] == "data":
        return f"{parts[-3]} ({path.stem} set)"
    return f"{parts[-2]} ({path.stem} set)" if len(parts) >= 2 else path.stem


def day(created: str) -> str:
    """`2026-11-25T10:11:44Z` → `2026-11-25 10:11`."""
    return created[:16].replace("T", " ")


# The turns of a report.


@dataclass(frozen=True)
class Filters:
    """Which turns to show; `models` are those that count and are shown, none meaning all."""

    intent: str = ""
    turn: int = 0
    outcome: str = ""
    text: str = ""
    models: tuple[str, ...] = ()


Outcomes = Sequence[bool | None]


def _judged(correct: Outcomes) -> bool:
    return any(value is not None for value in correct)


def outcomes(report: dict[str, Any], models: Sequence[str]) -> dict[str, tuple[str, Callable[[Outcomes], bool]]]:
    """Key → words and test of the right and wrong of `models`, in their order, in one turn."""
    result: dict[str, tuple[str, Callable[[Outcomes], bool]]] = {"": ("Any", lambda correct: True)}
    if report.get("accuracy_kind") is None:
        return result
    result["mixed"] = ("Models disagree", lambda correct: True in correct and False in correct)
    result["wrong"] = ("All wrong", lambda correct: _judged(correct) and True not in correct)
    result["right"] = ("All right", lambda correct: _judged(correct) and False not in correct)
    if len(models) > 1:
        names = name_of(report)
        for k, model in enumerate(models):
            result[f"only:{model}"] = (f"Only {names[model]} wrong", _only_wrong(k))
    return result


def _only_wrong(place: int) -> Callable[[Outcomes], bool]:
    return lambda correct: (
        correct[place] is False and all(value is not False for k, value in enumerate(correct) if k != place)
    )


def shown_models(report: dict[str, Any], filters: Filters) -> list[str]:
    """In the report's order; all where none of the wanted ones is in it."""
    every = [row["model"] for row in report["rows"]]
    return [model for model in every if model in filters.models] or every


def intents(report: dict[str, Any]) -> list[str]:
    return sorted({turn["intent"] for turn in report["conversations"] if turn["intent"]})


def turn_numbers(report: dict[str, Any]) -> list[int]:
    return sorted({turn["turn"] for turn in report["conversations"]})


def matching(report: dict[str, Any], filters: Filters) -> list[tuple[range, set[int]]]:
    """The conversations with a turn that passes: the places of all its turns in `report["conversations"]`, and
    of those that pass."""
    turns = report["conversations"]
    models = shown_models(report, filters)
    _, passes = outcomes(report, models).get(filters.outcome, ("", lambda correct: True))
    wanted = filters.text.casefold().strip()
    result: list[tuple[range, set[int]]] = []
    for places in _conversations(turns):
        found = {
            place
            for place in places
            if (not filters.intent or turns[place]["intent"] == filters.intent)
            and (not filters.turn or turns[place]["turn"] == filters.turn)
            and (not filters.outcome or passes([turns[place]["replies"][model]["correct"] for model in models]))
            and (not wanted or any(wanted in text.casefold() for text in _texts(turns[place], models)))
        }
        if found:
            result.append((places, found))
    return result


def _conversations(turns: Sequence[dict[str, Any]]) -> Iterator[range]:
    start = 0
    for place in range(1, len(turns) + 1):
        if place == len(turns) or turns[place]["conversation"] != turns[start]["conversation"]:
            yield range(start, place)
            start = place


def _texts(turn: dict[str, Any], models: Sequence[str]) -> Iterator[str]:
    yield turn["conversation"]
    yield turn["query"]
    yield turn["reference"] or ""
    for model in models:
        yield turn["replies"][model]["text"]


def facts_of(turn: dict[str, Any], reply: dict[str, Any]) -> dict[str, list[str]]:
    """The turn's facts by what the reply does with them, each by its first wording: stated, missing, forbidden."""
    missing = list(reply["missing"])
    stated = [fact[0] for fact in turn["facts"] if fact[0] not in missing] if reply["text"].strip() else []
    return {"stated": stated, "missing": missing, "forbidden": list(reply["forbidden"])}


# Files to take away.


def table_csv(report: dict[str, Any]) -> str:
    """A line for each model with every figure of the table, intervals as columns of their own; empty: unknown."""
    keys = [column.key for column in REPORT_COLUMNS]
    with_interval = [key for key in keys if any(row.get(f"{key}_ci") for row in report["rows"])]
    header = ["model", "role", *keys, *(f"{key}_{end}" for key in with_interval for end in ("low", "high"))]
    lines = [
        [row["model"], row["role"], *(row.get(key) for key in keys)]
        + [value for key in with_interval for value in row.get(f"{key}_ci") or (None, None)]
        for row in report["rows"]
    ]
    return _csv([header, *lines])


def turns_csv(report: dict[str, Any]) -> str:
    """A line for each reply of each model."""
    header = ["conversation", "turn", "intent", "query", "reference", "facts", "model", "reply", "correct"]
    lines: list[list[Any]] = [[*header, "left_out", "must_not_say"]]
    for turn in report["conversations"]:
        asked = [turn[key] for key in ("conversation", "turn", "intent", "query", "reference")]
        facts = "; ".join(fact[0] for fact in turn["facts"])
        for model, reply in turn["replies"].items():
            failed = ("; ".join(reply[key]) for key in ("missing", "forbidden"))
            lines.append([*asked, facts, model, reply["text"], reply["correct"], *failed])
    return _csv(lines)


def _csv(lines: Sequence[Sequence[Any]]) -> str:
    """With the mark by which spreadsheets know UTF-8. A text that they would run as a formula gets an apostrophe
    before it, so the exact texts are those of the JSON."""
    buffer = io.StringIO()
    buffer.write("\ufeff")
    writer = csv.writer(buffer, lineterminator="\r\n")
    for line in lines:
        writer.writerow([f"'{v}" if isinstance(v, str) and v[:1] in "=+-@\t\r" and v else v for v in line])
    return buffer.getvalue()
