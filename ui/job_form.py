"""The job as a form: which fields are shown, how a value goes into the YAML and back. No Gradio here.

The YAML is the job; the form is another way to write into it. Labels are here, help and defaults are
those of `distiller.job`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from distiller.errors import DistillerError, JobError
from distiller.job import CUT_FROM_TEACHER, DistillationJob, parse_job
from ui.access import AccessError

PROJECT = Path(__file__).parents[1]
QUICKSTART = PROJECT / "configs/quickstart.yaml"

#: group → (key, label) of the fields that the form shows; all others are set in the YAML.
GROUPS: dict[str, tuple[tuple[str, str], ...]] = {
    "Models": (
        ("teacher_model", "Teacher"),
        ("student_model", "Student"),
        ("student.layers", "Layers to keep"),
        ("student.intermediate_size", "Neurons of each to keep"),
        ("student.vocabulary_size", "Tokens to keep"),
    ),
    "Data": (
        ("training_data", "Training conversations"),
        ("validation_data", "Validation conversations"),
        ("test_data", "Test conversations"),
        ("task_type", "Task"),
        ("sample.training", "Training conversations to take"),
        ("sample.validation", "Validation conversations to take"),
        ("sample.test", "Test conversations to take"),
        ("sample.turns", "Turns of each to take"),
    ),
    "What the models are told": (
        ("system_prompt", "System prompt"),
        ("teacher_instructions", "Instructions for the teacher alone"),
        ("retrieval.policies", "Handbook"),
        ("retrieval.questions", "Answered questions"),
        ("retrieval.lines", "Handbook lines a question"),
        ("retrieval.student", "The student gets them too"),
    ),
    "Teacher": (
        ("teacher_sampling.temperature", "Temperature"),
        ("teacher_sampling.max_tokens", "Longest reply, tokens"),
        ("teacher_adaptation.enabled", "Adapt it to the data first"),
        ("teacher_adaptation.lora_rank", "Rank of the adapters"),
        ("teacher_adaptation.num_epochs", "Epochs of the adaptation"),
        ("teacher_key_variable", "Variable that holds the API key"),
        ("teacher_concurrency", "Requests at once"),
    ),
    "Curation": (
        ("curation.require_facts", "Drop replies that leave out a fact"),
        ("curation.drop_contradictions", "Drop replies that contradict a fact"),
        ("curation.use_reference_for_dropped", "Put the reference in the place of a dropped reply"),
        ("curation.min_words", "Shortest reply, words"),
        ("curation.language", "Language"),
        ("curation.near_duplicate_similarity", "Similarity of near duplicates"),
        ("curation.max_intent_share", "Largest share of one intent"),
    ),
    "Training": (
        ("hyperparameters.loss", "Loss"),
        ("hyperparameters.kd_weight", "Weight of the teacher's logits"),
        ("hyperparameters.temperature", "Temperature of the loss"),
        ("hyperparameters.num_epochs", "Epochs"),
        ("hyperparameters.learning_rate", "Learning rate"),
        ("hyperparameters.batch_size", "Batch size"),
        ("hyperparameters.lora_rank", "Rank of adapters"),
        ("reference_trained", "Also train on the references alone"),
        ("evaluation.max_tokens", "Longest reply in the evaluation, tokens"),
        ("seed", "Seed"),
    ),
}

TEACHERS = (
    ("The shop's own 135M teacher (here, no key)", "bundled:fernhill-support-135m"),
    ("SmolLM2 135M, untrained for the shop (here, no key)", "bundled:smollm2-135m-instruct"),
    ("DeepSeek V3", "openai:deepseek-chat@https://api.deepseek.com/v1"),
    ("GPT-4.1", "openai:gpt-4.1@https://api.openai.com/v1"),
    ("Claude Sonnet", "openai:claude-sonnet-4-5@https://api.anthropic.com/v1"),
    ("Llama 3.1 405B, by OpenRouter", "openai:meta-llama/llama-3.1-405b-instruct@https://openrouter.ai/api/v1"),
    ("Llama 3.1 8B, from the Hub", "hf:meta-llama/Llama-3.1-8B-Instruct"),
)
STUDENTS = (
    ("Cut from the teacher", CUT_FROM_TEACHER),
    ("SmolLM2 135M (here)", "bundled:smollm2-135m-instruct"),
    ("SmolLM2 360M, from the Hub", "hf:HuggingFaceTB/SmolLM2-360M-Instruct"),
    ("Phi-4-mini, from the Hub", "hf:microsoft/Phi-4-mini-instruct"),
    ("Llama 3.1 8B, from the Hub", "hf:meta-llama/Llama-3.1-8B-Instruct"),
)
SUGGESTIONS = {"teacher_model": TEACHERS, "student_model": STUDENTS}


@dataclass(frozen=True)
class Field:
    """One line of the form. `kind` says how it is typed in; the bounds are the job's own."""

    key: str
    label: str
    help: str
    kind: Literal["text", "number", "integer", "switch", "choice", "suggestion"]
    default: Any
    optional: bool = False
    choices: tuple[Any, ...] = ()
    least: float | None = None
    most: float | None = None


def fields() -> dict[str, list[Field]]:
    return {group: [_field(key, label) for key, label in keys] for group, keys in GROUPS.items()}


def all_fields() -> list[Field]:
    return [field for group in fields().values() for field in group]


def presets() -> dict[str, Path]:
    """The job files that ship, the quickstart first."""
    paths = sorted((PROJECT / "configs").glob("*.yaml"), key=lambda path: (path != QUICKSTART, path.name))
    return {path.stem: path for path in paths}


def values_of(text: str) -> list[Any]:
    """What the form shows for a job's YAML, in the order of `all_fields`. Raises JobError where it is no YAML."""
    value = _parse(text)
    shown = []
    for field in all_fields():
        found: Any = value
        for part in field.key.split("."):
            found = found.get(part, _MISSING) if isinstance(found, dict) else _MISSING
        found = field.default if found is _MISSING else found
        shown.append(str(found) if isinstance(found, list) else found)
    return shown


def with_value(text: str, key: str, value: Any) -> str:
    """The YAML with one field set; set to its default, the field is left out. Raises JobError where it is no YAML."""
    job = _parse(text)
    field = next(field for field in all_fields() if field.key == key)
    value = _typed(field, value)
    target, (*sections, last) = job, key.split(".")
    for section in sections:
        inner = target.get(section)
        target[section] = target = inner if isinstance(inner, dict) else {}
    if value == field.default and not _required(key):
        target.pop(last, None)
    else:
        target[last] = value
    for section in sections:  # an empty section says nothing
        if job.get(section) == {}:
            del job[section]
    return yaml.safe_dump(job, sort_keys=False, allow_unicode=True, width=100, default_flow_style=None)


def job_of(text: str) -> DistillationJob:
    """The job, checked with the files it names. Raises JobError."""
    return parse_job(_parse(text), "job")


def problem_in(text: str) -> str:
    """Why this job cannot be started, in words; empty where it can."""
    try:
        job_of(text)
    except DistillerError as error:
        return str(error)
    return ""


def to_problem(words: str) -> str:
    return f'<p class="notice" role="alert">{escape(words).replace(chr(10), "<br>")}</p>' if words else ""


#: What a visitor's run may take of a machine that all share: key → most.
VISITOR_LIMITS: dict[str, int] = {
    "sample.training": 150,
    "sample.validation": 20,
    "sample.test": 50,
    "sample.turns": 2,
    "teacher_sampling.max_tokens": 96,
    "evaluation.max_tokens": 96,
    "evaluation.timed_turns": 12,
    "hyperparameters.num_epochs": 3,
    "hyperparameters.batch_size": 16,
    "hyperparameters.max_length": 1024,
    "retrieval.lines": 6,
    "max_batch": 32,
}


def bounded(job: DistillationJob, own_files: Callable[[Path], bool]) -> DistillationJob:
    """The job, if a visitor may start it: shipped models, shipped or own files, quickstart's size. Raises AccessError."""
    names = {"teacher_model": job.teacher_model, "student_model": job.student_model}
    for key, name in (names | {"evaluation.embedding_model": job.evaluation.embedding_model}).items():
        if not name.startswith("bundled:") and name != CUT_FROM_TEACHER:
            raise AccessError(
                f"{key}: {name} can be used by the owner of this page only; visitors have the bundled ones."
            )
    if job.teacher_adaptation.enabled:
        raise AccessError("teacher_adaptation: takes too long for a page that many share. Run your own copy for it.")
    paths = [job.training_data, job.validation_data, job.test_data, job.retrieval.policies, job.retrieval.questions]
    for path in filter(None, paths):
        shipped = path.resolve().is_relative_to((PROJECT / "datasets").resolve())
        if not shipped and not own_files(path):
            raise AccessError(f"{path}: visitors may use the shipped data and what they have uploaded themselves.")
    for key, most in VISITOR_LIMITS.items():
        found: Any = job
        for part in key.split("."):
            found = getattr(found, part)
        if found > most or (found == 0 and key.startswith("sample.")):
            given = "all" if found == 0 else found
            raise AccessError(f"{key}: {given} is too much for a page that many share; at most {most}.")
    return job


_MISSING = object()


def _parse(text: str) -> dict[str, Any]:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        raise JobError(f"The job is not YAML{where}: {getattr(error, 'problem', error)}.") from None
    if not isinstance(value, dict):
        raise JobError("The job is empty: it needs keys and values, for example those of the quickstart.")
    return value


def _typed(field: Field, value: Any) -> Any:
    if isinstance(value, str):
        value = value.strip()
        if not value:
            return None if field.optional else field.default
        if field.key == "student.layers":
            return yaml.safe_load(value)  # a number or a list
    if field.kind == "integer" and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _field(key: str, label: str) -> Field:
    info = _info(key)
    kind: Any = info.annotation
    optional = False
    if get_origin(kind) in {Union, UnionType}:
        inner = [argument for argument in get_args(kind) if argument is not NoneType]
        optional = len(inner) < len(get_args(kind))
        kind = inner[0] if len(inner) == 1 else str
    least = next((m.ge if isinstance(m, Ge) else m.gt for m in info.metadata if isinstance(m, (Ge, Gt))), None)
    most = next((m.le if isinstance(m, Le) else m.lt for m in info.metadata if isinstance(m, (Le, Lt))), None)
    default = None if info.is_required() else info.get_default(call_default_factory=True)
    how: Literal["text", "number", "integer", "switch", "choice", "suggestion"] = "text"
    choices: tuple[Any, ...] = SUGGESTIONS.get(key, ())
    if choices:
        how = "suggestion"
    elif get_origin(kind) is Literal:
        how, choices = "choice", get_args(kind)
    elif kind is bool:
        how = "switch"
    elif kind is int:
        how = "integer"
    elif kind is float:
        how = "number"
    return Field(key, label, info.description or "", how, default, optional, choices, least, most)  # type: ignore[arg-type]


def _info(key: str) -> FieldInfo:
    model: type[BaseModel] = DistillationJob
    *sections, last = key.split(".")
    for section in sections:
        inner = model.model_fields[section].annotation
        assert isinstance(inner, type)
        assert issubclass(inner, BaseModel)
        model = inner
    return model.model_fields[last]


def _required(key: str) -> bool:
    return _info(key).is_required()
