"""Reports and votes → one table a data set: every model that was measured on the same conversations.

Reports are those of all runs and of `evaluations/*` in the runs folder. Where a model was measured on a data
set more than once, its newest report counts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from distiller.errors import DistillerError, RunError
from distiller.runs import Run, find_run, list_runs, runs_folder
from evals.compare import relate
from evals.judged import sentences
from evals.labels import labels
from evals.statistics import clustered_share_interval, shared_ranks

REPORT_KEYS = (
    "model", "role", "rank", "accuracy", "accuracy_ci", "accuracy_kind", "retention", "retention_ci", "improvement",
    "improvement_ci", "bleu", "bleu_ci", "bleu_signature", "chrf", "chrf_ci", "embedding_similarity",
    "embedding_similarity_ci", "teacher_bleu", "teacher_bleu_ci", "teacher_similarity", "teacher_similarity_ci",
    "free_accuracy", "free_accuracy_ci", "ttft_p50_s", "latency_p50_s", "latency_p95_s", "tokens_per_s",
    "replies_per_hour", "weights_mb", "peak_memory_mb", "parameters", "cpu_s_per_reply", "cost_per_1k", "n",
)  # fmt: skip
VOTE_KEYS = ("votes", "rating", "rating_ci", "win_rate", "win_rate_ci")
KEYS = (*REPORT_KEYS, *VOTE_KEYS, "vote_rank")
#: What a report knows by turn, so that it can be computed again for some of the turns.
BY_TURN = ("accuracy", "accuracy_ci", "retention", "improvement", "n")
#: What it knows of all turns only, although it depends on which turns are asked. Times, memory and cost do not.
OF_ALL_TURNS = (
    "retention_ci", "improvement_ci", "bleu", "bleu_ci", "chrf", "chrf_ci", "embedding_similarity",
    "embedding_similarity_ci", "teacher_bleu", "teacher_bleu_ci", "teacher_similarity", "teacher_similarity_ci",
    "free_accuracy", "free_accuracy_ci",
)  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """One report, cut to what a leaderboard needs. Arrays are (turns,); `correct` is NaN where nothing judges a turn."""

    path: Path
    name: str
    created: str
    sha256: str
    conversations: int
    turns: int
    rows: list[dict[str, Any]]
    conversation: np.ndarray
    intent: np.ndarray
    turn: np.ndarray
    correct: dict[str, np.ndarray]
    #: What a model as judge says of the replies, in words: apart from what people's votes say.
    judge_words: tuple[str, ...] = ()

    def some(self, model: str, intent: str | None, turn: int | None) -> dict[str, Any]:
        """Accuracy of `model` over the turns with this intent and this number (from 1); None for any."""
        correct = self.correct[model]
        chosen = ~np.isnan(correct)
        if intent is not None:
            chosen &= self.intent == intent
        if turn is not None:
            chosen &= self.turn == turn
        judged = correct[chosen]
        if not len(judged):
            return {"n": 0}
        interval = clustered_share_interval(judged, list(self.conversation[chosen]))
        return {"n": len(judged), "accuracy": float(judged.mean()), "accuracy_ci": list(interval)}


@dataclass(frozen=True)
class Board:
    """The models that were measured on one data set. `reports`: newest first."""

    key: str
    reports: tuple[Measured, ...]

    @property
    def name(self) -> str:
        return self.reports[0].name

    @property
    def newest(self) -> Measured:
        return self.reports[0]

    @property
    def judge_words(self) -> list[str]:
        return [words for report in self.reports for words in report.judge_words]

    def intents(self) -> list[str]:
        return sorted({str(intent) for intent in self.newest.intent if intent})

    def turns(self) -> list[int]:
        return sorted({int(turn) for turn in self.newest.turn})

    def rows(self, intent: str | None = None, turn: int | None = None) -> list[dict[str, Any]]:
        """Each with every key of KEYS, null where unknown; the best first.

        For some of the turns, accuracy and what follows from it are computed again, what a report knows of all
        turns only is null, and times, memory and cost stay as measured.
        """
        rows: dict[str, dict[str, Any]] = {}
        for report in self.reports:
            for row in _rows_of(report, intent, turn):
                rows.setdefault(row["model"], row)
        return _ranked(rows.values(), "rank", "accuracy_ci")


Visible = Callable[[Path], bool]


def boards(visible: Visible | None = None) -> tuple[list[Board], list[str]]:
    """One a data set, the one with the newest report first; and, in words, the reports that cannot be read.

    `visible`: which reports are for the reader's eyes, by path; all of them by default.
    """
    reports: list[Measured] = []
    unreadable: list[str] = []
    for path in filter(visible, report_paths()):
        try:
            reports.append(measured(path))
        except RunError as error:
            unreadable.append(str(error))
    reports.sort(key=lambda report: (report.created, str(report.path)), reverse=True)
    found: dict[str, list[Measured]] = {}
    for report in reports:
        found.setdefault(report.sha256, []).append(report)
    return [Board(key, tuple(group)) for key, group in found.items()], unreadable


def report_paths() -> list[Path]:
    return sorted(path for pattern in ("*", "evaluations/*") for path in runs_folder().glob(f"{pattern}/report.json"))


def newest_report(run_name: str | None = None) -> Path | None:
    """The report of the named run, else that of the newest one that has one. Raises RunError for a run without."""
    if run_name is not None:
        return _report_of(run_name)
    paths = [run.path("report.json") for run in list_runs() if run.path("report.json").exists()]
    return max(paths, key=lambda path: path.stat().st_mtime, default=None)


def _report_of(run_name: str) -> Path:
    run = find_run(run_name)
    path = run.path("report.json")
    if not path.exists():
        raise RunError(f"Run {run.id} has no report yet. Make it: python -m evals run --run {run.id}")
    return path


def newest_board(run_name: str | None = None, visible: Visible | None = None) -> Board | None:
    """The models of the named run, else all that were measured on the newest report's data; None without a report.

    `visible`: as of `boards`, where no run is named. Raises RunError for a run without a report.
    """
    if run_name is not None:
        report = measured(_report_of(run_name))
        return Board(report.sha256, (report,))
    found, _ = boards(visible)
    return found[0] if found else None


def with_votes(rows: Sequence[dict[str, Any]], ratings: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with what people's votes say (`live_ratings`): `{"model", "rating", "rating_ci", "win_rate", "win_rate_ci",
    "votes"}` each, of which only `model` must be there. A model that was voted on and never measured gets a row of its own."""
    merged = {row["model"]: dict(row) for row in rows}
    for rating in ratings:
        row = merged.setdefault(rating["model"], dict.fromkeys(KEYS) | {"model": rating["model"]})
        row.update({key: rating.get(key) for key in VOTE_KEYS})
    return _ranked(merged.values(), "vote_rank", "rating_ci")


def _ranked(rows: Iterable[dict[str, Any]], key: str, interval: str) -> list[dict[str, Any]]:
    rows = list(rows)
    for row in rows:
        row[key] = None
    known = [row for row in rows if row[interval] is not None]
    for row, rank in zip(known, shared_ranks([tuple(row[interval]) for row in known]), strict=True):
        row[key] = rank

    def order(row: dict[str, Any]) -> tuple[float, ...]:
        quality = row["accuracy"] if row["accuracy"] is not None else row["embedding_similarity"]
        places = (row["rank"] or 1_000, row["vote_rank"] or 1_000)
        return *places, -(quality or 0.0), -(row["rating"] or 0.0), row["latency_p50_s"] or 0.0

    return sorted(rows, key=order)


def _rows_of(report: Measured, intent: str | None, turn: int | None) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{key: row.get(key) for key in KEYS} for row in report.rows]
    if intent is None and turn is None:
        return rows
    for row in rows:
        row.update(dict.fromkeys(BY_TURN + OF_ALL_TURNS), **report.some(row["model"], intent, turn))
    relate(rows)
    return rows


def measured(path: Path) -> Measured:
    """The report at `path`. Raises RunError where it cannot be read."""
    try:
        status = path.stat()
        return _read(path, status.st_mtime_ns, status.st_size)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{path} cannot be read ({type(error).__name__}: {error}). Make it again, or remove it."
        ) from None


@lru_cache(maxsize=64)
def _read(path: Path, mtime_ns: int, size: int) -> Measured:
    """Remembered until the file changes: a page is asked for more often than a report is written."""
    report = json.loads(path.read_text("utf-8"))
    turns, data = report["conversations"], report["data"]

    def correct(model: str) -> np.ndarray:
        values = [turn["replies"][model]["correct"] for turn in turns]
        return np.array([np.nan if value is None else float(value) for value in values])

    return Measured(
        path=path,
        name=_data_name(path, data["file"]),
        created=report["created"],
        sha256=data["sha256"],
        conversations=data["conversations"],
        turns=data["turns"],
        rows=report["rows"],
        conversation=np.array([turn["conversation"] for turn in turns], dtype=object),
        intent=np.array([turn["intent"] for turn in turns], dtype=object),
        turn=np.array([turn["turn"] for turn in turns]),
        correct={row["model"]: correct(row["model"]) for row in report["rows"]},
        judge_words=tuple(sentences(report.get("judge"), labels(report["rows"]))),
    )


def _data_name(report: Path, file: str) -> str:
    """A run keeps a copy of its data under one name for all, so the job says where it came from."""
    origin = Path(report.parent.name) / file
    with suppress(DistillerError, OSError):  # an evaluation of no run, or a job that another version wrote
        origin = Path(Run(report.parent).job.test_data or origin)
    return "/".join(origin.parts[-2:])
