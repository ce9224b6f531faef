"""Run folders: where the stages meet, in files.

    runs/<id>/  job.yaml  data/{train,validation,test,edits}.jsonl  events.jsonl  state.json  edits.jsonl
                synthetic.{train,validation}.jsonl  dropped.jsonl  training.jsonl
                baseline/  student/  reference_trained/  predictions/  report.{json,md,html}  manifest.json

The id is the job's name and a hash of all that shapes the result, so starting the same job again
goes on with the same run. `state.json` lists the stages that are complete; `manifest.json` is written
last: a run without one is unfinished and can be resumed.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from contextlib import AbstractContextManager
from functools import lru_cache
from pathlib import Path
from typing import Any

from distiller.chat.bundled import without_adapters
from distiller.errors import ModelError, RunError
from distiller.job import CUT_FROM_TEACHER, DistillationJob, dump_job, load_job
from distiller.schema import write_text
from distiller.work import locked

CONTESTANTS = ("teacher", "student", "baseline", "reference_trained", "untouched")


def runs_folder() -> Path:
    return Path(os.environ.get("DISTILLER_RUNS") or "runs")


class Run:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.id = folder.name

    @property
    def job(self) -> DistillationJob:
        path = self.folder / "job.yaml"
        return _job_in(path, path.stat().st_mtime_ns if path.exists() else 0)

    def path(self, *parts: str) -> Path:
        return self.folder.joinpath(*parts)

    @property
    def state(self) -> dict[str, Any]:
        path = self.path("state.json")
        return json.loads(path.read_text("utf-8")) if path.exists() else {}

    def finish_stage(self, stage: str, **figures: Any) -> None:
        write_text(self.path("state.json"), json.dumps(self.state | {stage: figures}, indent=2, ensure_ascii=False))

    @property
    def manifest(self) -> dict[str, Any] | None:
        path = self.path("manifest.json")
        return json.loads(path.read_text("utf-8")) if path.exists() else None

    def model_name(self, contestant: str) -> str:
        """The model behind `run:ID/contestant`, in the grammar of names."""
        job = self.job
        if contestant == "teacher":
            adapted = self.path("teacher", "config.json").exists()
            return f"hf:{self.path('teacher')}" if adapted else job.teacher_model
        if contestant == "untouched":
            return without_adapters(self._source)
        if contestant not in CONTESTANTS:
            raise ModelError(f"run:{self.id}/{contestant}: a run has {', '.join(CONTESTANTS)}.")
        if not self.path(contestant, "config.json").exists():
            raise ModelError(f"run:{self.id}/{contestant}: not made yet. Finish the run first.")
        return f"hf:{self.path(contestant)}"

    def contestants(self) -> list[str]:
        """Those that exist, the teacher first. Uncut, the untouched model is the baseline itself."""
        present = [c for c in CONTESTANTS if c in {"teacher", "untouched"} or self.path(c, "config.json").exists()]
        job = self.job
        adapted = job.student_model == CUT_FROM_TEACHER and job.teacher_adaptation.enabled
        shape = job.student
        cut = any(part is not None for part in (shape.layers, shape.intermediate_size, shape.vocabulary_size))
        if not (cut or adapted or without_adapters(self._source) != self._source):
            present.remove("untouched")
        return present

    @property
    def _source(self) -> str:
        """The model that the job makes its student from."""
        job = self.job
        return job.teacher_model if job.student_model == CUT_FROM_TEACHER else job.student_model

    def locked(self) -> AbstractContextManager[None]:
        """One process a run. Raises RunError where another one works on it."""
        return locked(self.folder)


@lru_cache(maxsize=1024)
def _job_in(path: Path, written_ns: int) -> DistillationJob:
    """Pages list all runs again and again."""
    return load_job(path, check_files=False)


def open_run_of(job: DistillationJob) -> Run:
    """The run of this job: an existing one to go on with, or a new folder."""
    run = Run(runs_folder() / f"{job.name}-{job.hash()[:8]}")
    if not run.path("job.yaml").exists():
        run.folder.mkdir(parents=True, exist_ok=True)
        write_text(run.path("job.yaml"), dump_job(job))
    return run


def list_runs() -> list[Run]:
    """Newest first."""
    folders = [path.parent for path in runs_folder().glob("*/job.yaml")]
    return [Run(folder) for folder in sorted(folders, key=lambda f: (f / "job.yaml").stat().st_mtime, reverse=True)]


def find_run(name: str) -> Run:
    """By id, by the start of one (the newest counts), or `latest`. Raises RunError."""
    runs = list_runs()
    for run in runs:
        if run.id == name:
            return run
    for run in runs:
        if name == "latest" or run.id.startswith(name):
            return run
    known = ", ".join(run.id for run in runs[:5]) or "none yet"
    raise RunError(
        f"There is no run {name!r} in {runs_folder()} (there: {known}). Start one: python -m distiller run JOB.yaml"
    )


def resolve_model(rest: str) -> str:
    """`ID/student` → the name of the model behind it."""
    name, _, contestant = rest.partition("/")
    return find_run(name).model_name(contestant or "student")


def file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def folder_hash(folder: Path) -> str:
    """Of the weights and the tokenizer: two students with one hash are the same student."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def versions() -> dict[str, str]:
    import importlib.metadata
    import platform

    packages = (
        "torch",
        "transformers",
        "tokenizers",
        "accelerate",
        "sentence-transformers",
        "sacrebleu",
        "gguf",
        "xllamacpp",
    )
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"python": platform.python_version(), **found}


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
