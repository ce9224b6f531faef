"""Who is compared, in which role, and what each is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from distiller.chat.bundled import exported_folder
from distiller.export.manifest import told_in
from distiller.job import DistillationJob
from distiller.prompting import Prompting, student_prompting, teacher_prompting
from distiller.runs import Run, find_run
from distiller.schema import text_hash

ROLE_WORDS = {
    "teacher": "the model that is imitated, with the policy text it may consult",
    "student": "the distilled model",
    "baseline": "the student before distillation",
    "reference_trained": "the same student trained on the references alone",
    "untouched": "the model that the student was cut from, as published",
}


@dataclass(frozen=True)
class Contestant:
    """`role` is None for models that no run made; they are told what `job` tells its student, if one is given."""

    name: str
    role: str | None
    job: DistillationJob | None = None

    def prompting(self, system_prompt: str | None = None) -> Prompting:
        """The job's prompt for its role; `system_prompt` for models of no run."""
        # Stored replies are found by the bare question.
        if self.job is None or self.name.startswith("recorded:"):
            default = DistillationJob.model_fields["system_prompt"].default
            return Prompting(system_prompt if system_prompt is not None else default)
        return teacher_prompting(self.job) if self.role == "teacher" else student_prompting(self.job)


def file_names(contestants: Sequence[Contestant]) -> dict[str, str]:
    """Name → what its predictions' files are called: its role; where two runs' students meet, its name."""
    roles = [contestant.role for contestant in contestants]
    return {
        c.name: c.role if c.role and roles.count(c.role) == 1 else f"{_plain(c.name)[:80]}-{text_hash(c.name)[:8]}"
        for c in contestants
    }


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name)


def of_run(run: Run) -> list[Contestant]:
    job = run.job
    return [Contestant(f"run:{run.id}/{role}", role, job) for role in run.contestants()]


def by_name(name: str, job: DistillationJob | None = None) -> Contestant:
    """A model of the grammar. One of a run brings its role and its job's prompt along, and an exported one does where its
    manifest lies beside it; others get `job`'s."""
    scheme, _, rest = name.partition(":")
    if scheme == "run":
        run_name, _, role = rest.partition("/")
        run = find_run(run_name)
        return Contestant(f"run:{run.id}/{role or 'student'}", role or "student", run.job)
    folder = Path(rest).parent if scheme == "gguf" else exported_folder(rest) if scheme == "bundled" else None
    told = told_in(folder) if folder else None
    return Contestant(name, *told) if told else Contestant(name, None, job)


def in_service(name: str, job: DistillationJob | None = None) -> Contestant:
    """As `by_name`; and `job`'s own teacher is told what the job tells its teacher, as it is where it serves."""
    contestant = by_name(name, job)
    is_teacher = job is not None and contestant.role is None and name == job.teacher_model
    return replace(contestant, role="teacher") if is_teacher else contestant
