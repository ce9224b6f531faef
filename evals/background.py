"""Runs and evaluations as processes of their own: they outlive a page, and wait for each other."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from distiller.job import DistillationJob
from distiller.pipeline import run_job
from distiller.progress import Progress
from distiller.runs import Run, open_run_of, runs_folder
from distiller.schema import text_hash, write_text
from distiller.work import in_turn, start_work
from evals.evaluate import evaluate_run

#: What an evaluation was asked for, in its folder: {models, data, options}.
REQUEST = "request.json"


def distill(job: DistillationJob, *, skip_bad: bool = False, quiet: bool = False, queue: bool = False) -> Path | None:
    """Brings `job` to its student and, where it names test data, to the report, whose JSON's path it gives.

    With `queue` it waits its turn: two trainings on one machine would each take more than twice as long.
    Raises DistillerError.
    """
    with turn(open_run_of(job).folder, queue):
        run = run_job(job, skip_bad=skip_bad, quiet=quiet)
        return evaluate_run(run, quiet=quiet) if job.test_data is not None else None


@contextmanager
def turn(folder: Path, queue: bool = True) -> Iterator[None]:
    """Waits, saying so in the events of `folder`, until no other queued work is under way."""
    if not queue:
        yield
        return
    Progress(folder / "events.jsonl", quiet=True).event("queued", pid=os.getpid())
    with in_turn(runs_folder()):
        yield


def start_run(job: DistillationJob) -> Run:
    """Starts, or goes on with, the run of `job` in a process of its own. Raises RunError where it is under way."""
    run = open_run_of(job)
    start_work(run.folder, ["evals", "distill", str(run.path("job.yaml")), "--queue"])
    return run


def evaluations_folder() -> Path:
    return runs_folder() / "evaluations"


def start_evaluation(models: Sequence[str], data: Path, options: Sequence[str] = ()) -> Path:
    """Starts `evals run` of `models` on `data` in a process of its own; its report goes to the folder that is given.

    The same models, data and `options` (of the command line) are the same evaluation: what is done is not done again.
    """
    arguments = ["--models", ",".join(models), "--data", str(data), *options]
    content = data.read_bytes().hex() if data.exists() else ""
    folder = evaluations_folder() / f"{data.stem}-{text_hash(*arguments, content)[:8]}"
    request = {"models": list(models), "data": str(data), "options": list(options)}
    write_text(folder / REQUEST, json.dumps(request, ensure_ascii=False))
    start_work(folder, ["evals", "run", *arguments, "--out", str(folder), "--queue", "--quiet"])
    return folder
