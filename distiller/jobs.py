"""The list of runs, with their state."""

from __future__ import annotations

import fcntl
from typing import Any

from distiller.errors import JobError
from distiller.runs import Run, list_runs

_REST = ("stages_done", "seconds", "teacher", "student", "validation_loss")


def state_of(run: Run) -> str:
    """complete, running (a process holds its lock), or stopped (it can be resumed)."""
    if run.manifest is not None:
        return "complete"
    lock = run.path(".lock")
    if lock.exists():
        with lock.open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return "running"
    return "stopped"


def job_rows() -> list[dict[str, Any]]:
    rows = []
    for run in list_runs():
        stages = run.state
        try:
            job = run.job
        except JobError:  # made by a version with other fields
            rows.append({"run": run.id, "state": "unreadable job.yaml"} | dict.fromkeys(_REST))
            continue
        best = stages.get("train", {})
        losses = best.get("validation") or []
        rows.append(
            {
                "run": run.id,
                "state": state_of(run),
                "stages_done": ", ".join(stages) or "none",
                "seconds": round(sum(figures.get("seconds", 0) for figures in stages.values()), 1),
                "teacher": job.teacher_model,
                "student": job.student_model,
                "validation_loss": round(losses[best["best_epoch"] - 1]["loss"], 4) if losses else None,
            }
        )
    return rows
