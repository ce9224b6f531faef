"""The list of runs, with their state."""

from __future__ import annotations

from typing import Any

from distiller.errors import JobError
from distiller.runs import Run, list_runs
from distiller.watch import Watch
from distiller.work import worker_of

_REST = ("stages_done", "seconds", "teacher", "student", "validation_loss")


def state_of(run: Run) -> str:
    """complete, queued, running, failed (the events say why) or stopped (it can be resumed)."""
    if worker_of(run.folder) is None and run.manifest is not None:
        return "complete"
    state = Watch(run.folder).refresh().state
    return "stopped" if state == "complete" else state  # the manifest is written after all else


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
