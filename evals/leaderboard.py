"""Reports → one table: the automatic scores of every model that was evaluated on the same data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from distiller.errors import RunError
from distiller.runs import find_run, list_runs

KEYS = (
    "model", "role", "rank", "accuracy", "accuracy_ci", "accuracy_kind", "retention", "improvement", "bleu", "bleu_ci",
    "bleu_signature", "chrf", "embedding_similarity", "embedding_similarity_ci", "teacher_bleu", "teacher_similarity",
    "free_accuracy", "ttft_p50_s", "latency_p50_s", "latency_p95_s", "tokens_per_s", "replies_per_hour", "weights_mb",
    "peak_memory_mb", "parameters", "cpu_s_per_reply", "cost_per_1k", "n",
)  # fmt: skip


def newest_report(run_name: str | None = None) -> Path | None:
    """The report of the named run, else the newest one there is. Raises RunError for a run without."""
    if run_name is not None:
        run = find_run(run_name)
        path = run.path("report.json")
        if not path.exists():
            raise RunError(f"Run {run.id} has no report yet. Make it: python -m evals run --run {run.id}")
        return path
    paths = [run.path("report.json") for run in list_runs() if run.path("report.json").exists()]
    return max(paths, key=lambda path: path.stat().st_mtime, default=None)


def leaderboard_rows(run_name: str | None = None) -> list[dict[str, Any]]:
    """Each row with every key of KEYS, null where unknown; the best first. No report yet: no rows."""
    path = newest_report(run_name)
    if path is None:
        return []
    rows = json.loads(path.read_text("utf-8"))["rows"]
    rows = [{key: row.get(key) for key in KEYS} for row in rows]

    def order(row: dict[str, Any]) -> tuple[float, float, float]:
        quality = row["accuracy"] if row["accuracy"] is not None else row["embedding_similarity"]
        return row["rank"] or 1_000, -(quality or 0.0), row["latency_p50_s"] or 0.0

    return sorted(rows, key=order)
