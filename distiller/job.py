"""The job file: what to distil, from whom, into what, and how. YAML, with Azure ML's field names.

Unknown keys are refused with the nearest known one. `python -m distiller jobs --fields` prints every
field with its default and meaning, from the descriptions below.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from distiller.chat.base import Sampling
from distiller.errors import JobError
from distiller.schema import text_hash

TaskType = Literal["conversation"]
#: The value of student_model that cuts the student from the run's own teacher.
CUT_FROM_TEACHER = "teacher"
_API = ("openai:", "recorded:")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True)


class Sample(_Section):
    """How many conversations to take of each file, in equal shares of its intents; 0 takes all."""

    training: int = Field(0, ge=0, description="conversations of training_data; 0 = all")
    validation: int = Field(0, ge=0, description="conversations of validation_data; 0 = all")
    test: int = Field(0, ge=0, description="conversations of test_data; 0 = all")
    turns: int = Field(0, ge=0, description="first turns of each conversation to take; 0 = all")


class Retrieval(_Section):
    policies: Path | None = Field(None, description="Markdown file with '## ' sections that the teacher may consult")
    questions: Path | None = Field(
        None,
        description="answered conversations (JSONL): their questions lead to the policy lines that answered them",
    )
    lines: int = Field(6, ge=1, le=100, description="lines of it put before the teacher for each query")
    complete: bool = Field(
        False,
        description="in stage 1 the lines that a training question was answered from are always among them (needs "
        "questions): more replies of the teacher are right, and in service the lines are found or not",
    )
    student: bool = Field(
        False, description="the student gets them too; else it learns to answer without, which is faster to serve"
    )


class TeacherSampling(Sampling):
    model_config = ConfigDict(extra="forbid")
    max_tokens: int = Field(128, ge=1, le=32_768, description="tokens a reply of the teacher may have")


class TeacherPrice(_Section):
    input_per_million: float = Field(ge=0, description="USD for a million prompt tokens")
    output_per_million: float = Field(ge=0, description="USD for a million completion tokens")


class Curation(_Section):
    min_words: int = Field(3, ge=0, description="a shorter reply is dropped as empty")
    language: str = Field("en", description="ISO 639-1 code that replies must be in; '' does not check")
    drop_contradictions: bool = Field(True, description="drop a reply that states a forbidden fact or another figure")
    require_facts: bool = Field(
        False, description="also drop a reply that leaves out a fact of its reference (rejection sampling)"
    )
    use_reference_for_dropped: bool = Field(
        False, description="put the reference in the place of a dropped reply instead of losing the turn"
    )
    quote_policies: bool = Field(
        False,
        description="say such a reference in the policies' own sentences, as teacher_adaptation.quote_policies does",
    )
    near_duplicate_similarity: float = Field(
        0.97, gt=0, le=1, description="embedding cosine of query and reply from which two turns are one"
    )
    max_intent_share: float = Field(0.2, gt=0, le=1, description="largest share of the turns that one intent may have")
    edits: Path | None = Field(
        None, description="hand edits of the teacher's replies (JSONL), as the Data tab writes them"
    )


class Student(_Section):
    layers: int | list[int] | None = Field(
        None,
        description="teacher layers to keep: a number (evenly spread, first and last kept) or their list",
    )
    layer_choice: Literal["even", "importance"] = Field(
        "even",
        description="which layers, where their number is given: evenly spread, or those that are missed most on the "
        "validation conversations (minutes)",
    )
    intermediate_size: int | None = Field(
        None,
        ge=32,
        multiple_of=32,
        description="neurons of each feed-forward layer to keep: those that do most on the validation conversations",
    )
    vocabulary_size: int | None = Field(
        None, ge=300, description="tokens to keep: those of the training texts first, then the most frequent"
    )


class Hyperparameters(_Section):
    learning_rate: float = Field(5e-4, gt=0, le=1, description="peak of the schedule")
    batch_size: int = Field(8, ge=1, description="conversations a step")
    gradient_accumulation_steps: int = Field(1, ge=1, description="steps' shares the batch is split into")
    num_epochs: int = Field(5, ge=1, le=1000, description="passes over the training conversations")
    temperature: float = Field(1.0, gt=0, le=20, description="softens both distributions of the loss (τ)")
    loss: Literal["sequence", "forward_kl", "reverse_kl", "jsd", "skew_kl", "skew_reverse_kl", "total_variation"] = (
        Field(
            "forward_kl",
            description="sequence: cross-entropy on the teacher's text; all others: its logits too, and how far the student's "
            "may be from them",
        )
    )
    kd_weight: float = Field(0.9, ge=0, le=1, description="w in (1 − w)·CE + w·loss; unused by loss: sequence")
    jsd_beta: float = Field(0.5, ge=0, le=1, description="of loss: jsd; 0 is forward KL, 1 is reverse KL")
    skew_alpha: float = Field(0.1, ge=0, lt=1, description="the teacher's (skew_kl) or student's share in the mixture")
    warmup_ratio: float = Field(0.05, ge=0, lt=1, description="share of the steps in which the rate grows")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's, on matrices")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are scaled down to this norm")
    lora_rank: int | None = Field(
        None,
        ge=1,
        le=512,
        description="train low-rank adapters of this rank, merged at the end; null trains all weights",
    )
    quantization: Literal["q4_0", "q8_0"] | None = Field(
        None, description="train with the weights rounded as this export rounds them, so that it loses less"
    )
    max_length: int = Field(1024, ge=32, description="tokens of a training conversation; longer ones lose early turns")
    early_stopping_patience: int = Field(2, ge=1, description="epochs without a better validation loss before the end")


class TeacherAdaptation(Hyperparameters):
    """Fine-tunes a local teacher on the references, with its policy text before it, ahead of stage 1."""

    enabled: bool = Field(False, description="adapt the teacher to the domain before it answers")
    learning_rate: float = Field(5e-4, gt=0, le=1, description="peak of the schedule")
    num_epochs: int = Field(2, ge=1, le=1000, description="passes over the training turns")
    lora_rank: int | None = Field(16, ge=1, le=512, description="rank of the adapters; null trains all weights")
    loss: Literal["sequence"] = Field("sequence", description="cross-entropy on the references")  # type: ignore[assignment]
    quote_policies: bool = Field(
        False,
        description="learn what a reference takes from the policies in their own sentences (needs facts): a small "
        "model repeats more reliably than it rewords",
    )


class Evaluation(_Section):
    max_tokens: int = Field(128, ge=1, description="tokens a reply may have; the same for every contestant")
    timed_turns: int = Field(
        12, ge=1, description="turns that each contestant answers alone, one at a time, for the times"
    )
    free_running: bool = Field(False, description="replay with the model's own earlier replies as well")
    machine_hour_usd: float = Field(0.085, ge=0, description="price of an hour of a machine like this one")
    embedding_model: str = Field("bundled:all-minilm-l6-v2", description="what embedding similarity is measured with")


class DistillationJob(_Section):
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,60}$", description="names the run's folder")
    teacher_model: str = Field(description="who is imitated")
    student_model: str = Field(
        description="what is trained, with `student` the parts of it that are kept; `teacher`: cut from the teacher, "
        "after its adaptation"
    )
    training_data: Path = Field(description="conversations whose user turns the teacher answers")
    validation_data: Path = Field(description="conversations that choose the best epoch")
    test_data: Path | None = Field(None, description="conversations that the evaluation replays")
    task_type: TaskType = Field("conversation", description="what is asked and what counts as correct")
    column_map: dict[str, str] = Field(
        default_factory=dict,
        description="where CSV columns or JSON keys go: {user: instruction, assistant: response}",
    )
    sample: Sample = Sample()
    system_prompt: str = Field(
        "You are a helpful customer support agent. Answer briefly and politely.",
        description="what every contestant is told",
    )
    teacher_instructions: str = Field("", description="what the teacher alone is told on top")
    retrieval: Retrieval = Retrieval()
    teacher_sampling: TeacherSampling = TeacherSampling()
    teacher_adaptation: TeacherAdaptation = TeacherAdaptation()
    teacher_price: TeacherPrice | None = Field(None, description="for the spend of an API teacher")
    teacher_key_variable: str = Field("OPENAI_API_KEY", description="environment variable that holds the key")
    teacher_concurrency: int = Field(8, ge=1, le=1024, description="requests under way at once to an API teacher")
    min_teacher_accuracy: float = Field(
        0.3,
        ge=0,
        le=1,
        description="validation accuracy below which the teacher is reported as bad at the domain",
    )
    stop_on_bad_teacher: bool = Field(False, description="end the run there, before the training turns are paid for")
    curation: Curation = Curation()
    student: Student = Student()
    hyperparameters: Hyperparameters = Hyperparameters()
    reference_trained: bool = Field(True, description="also train the same student on the references alone")
    evaluation: Evaluation = Evaluation()
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of local models; auto is bfloat16 where the processor computes in it"
    )
    max_batch: int = Field(32, ge=1, le=1024, description="requests that a local model answers together")
    seed: int = Field(0, ge=0, description="of sampling, order and initialisation")

    @field_validator("teacher_model", "student_model")
    @classmethod
    def _known_grammar(cls, value: str, info: ValidationInfo) -> str:
        from distiller.chat.registry import MODEL_NAME_HELP, OPENERS

        scheme, _, rest = value.partition(":")
        if info.field_name == "student_model" and value == CUT_FROM_TEACHER:
            return value
        if scheme not in OPENERS or not rest:
            raise ValueError(f"{value!r} is no model name; expected {MODEL_NAME_HELP}")
        return value

    @model_validator(mode="after")
    def _capabilities(self) -> DistillationJob:
        source = self.teacher_model if self.student_model == CUT_FROM_TEACHER else self.student_model
        if source.startswith(_API):
            raise ValueError(
                f"student_model {self.student_model!r} ({source}) has no weights to train; use hf: or bundled:"
            )
        if self.hyperparameters.loss != "sequence" and self.teacher_model.startswith(_API):
            raise ValueError(
                f"loss: {self.hyperparameters.loss} needs the teacher's logits, which {self.teacher_model!r} does not give; "
                "use hyperparameters.loss: sequence"
            )
        if self.teacher_adaptation.enabled and self.teacher_model.startswith(_API):
            raise ValueError(f"teacher_adaptation needs a local teacher; {self.teacher_model!r} has no weights here")
        if self.teacher_model.startswith("recorded:") and self.retrieval.policies is not None:
            raise ValueError("stored replies are found by the bare question: leave out retrieval.policies")
        if self.retrieval.complete and self.retrieval.questions is None:
            raise ValueError("retrieval.complete needs the answered conversations: set retrieval.questions")
        for section in ("teacher_adaptation", "curation"):
            if getattr(self, section).quote_policies and self.retrieval.policies is None:
                raise ValueError(f"{section}.quote_policies needs the file to quote from: set retrieval.policies")
        if self.hyperparameters.quantization and self.hyperparameters.lora_rank:
            raise ValueError(
                "hyperparameters.quantization rounds whole weights, which low-rank adapters leave as they are; "
                "set lora_rank or quantization, not both"
            )
        return self

    def hash(self) -> str:
        """Of everything that shapes the result: the job, and the content of the files it names."""
        files = [
            self.training_data,
            self.validation_data,
            self.test_data,
            self.retrieval.policies,
            self.retrieval.questions,
            self.curation.edits,
        ]
        contents = [path.read_bytes().hex() if path and path.exists() else "" for path in files]
        return text_hash(self.model_dump_json(), *contents)


def load_job(path: Path, overrides: list[str] | None = None, *, check_files: bool = True) -> DistillationJob:
    """Reads a job file. `overrides` are `--set` values: `hyperparameters.num_epochs=2`. Raises JobError."""
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise JobError(f"{path}: cannot be read ({error.strerror}). Job files that ship are in configs/.") from None
    except UnicodeDecodeError as error:
        raise JobError(f"{path}: not UTF-8 at byte {error.start}. Save it as UTF-8.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}" if mark else ""
        raise JobError(f"{path}{where}: not YAML: {getattr(error, 'problem', error)}") from None
    if not isinstance(value, dict):
        raise JobError(f"{path}: expected keys and values, found {type(value).__name__}.")
    for override in overrides or []:
        _override(value, override)
    return parse_job(value, str(path), check_files=check_files)


def parse_job(value: dict[str, Any], where: str = "job", *, check_files: bool = True) -> DistillationJob:
    try:
        job = DistillationJob.model_validate(value)
    except ValidationError as error:
        raise JobError("\n".join(_in_words(where, problem) for problem in error.errors())) from None
    if not check_files:
        return job
    for field in ("training_data", "validation_data", "test_data"):
        path = getattr(job, field)
        if path is not None and not path.exists():
            raise JobError(f"{where}: {field}: there is no file {path} (paths are relative to the current folder).")
    named = {
        "retrieval.policies": job.retrieval.policies,
        "retrieval.questions": job.retrieval.questions,
        "curation.edits": job.curation.edits,
    }
    for name, file in named.items():
        if file and not file.exists():
            raise JobError(f"{where}: {name}: there is no file {file}.")
    return job


def dump_job(job: DistillationJob) -> str:
    return yaml.safe_dump(job.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def field_table(model: type[BaseModel] = DistillationJob, prefix: str = "") -> list[tuple[str, str, str, str]]:
    """(key, type, default, meaning) of every field, sections opened."""
    rows: list[tuple[str, str, str, str]] = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        inner = next((a for a in (kind, *get_args(kind)) if isinstance(a, type) and issubclass(a, BaseModel)), None)
        if inner is not None:
            rows += field_table(inner, f"{prefix}{name}.")
            continue
        shown = getattr(kind, "__name__", None) if not get_args(kind) else None
        kind_text = shown or str(kind).replace("typing.", "").replace("pathlib.", "")
        default = "required" if field.is_required() else str(field.get_default(call_default_factory=True))
        rows.append((prefix + name, kind_text, default, field.description or ""))
    return rows


def _override(value: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise JobError(f"--set {override!r}: expected KEY=VALUE, for example hyperparameters.num_epochs=2.")
    target = value
    *sections, last = key.strip().split(".")
    for section in sections:
        target = target.setdefault(section, {})
        if not isinstance(target, dict):
            raise JobError(f"--set {override!r}: {section!r} is a value, not a section.")
    try:
        parsed = yaml.safe_load(text)
    except yaml.YAMLError:
        parsed = text
    # "a: b" is a sentence here, and {a: b} a mapping.
    target[last] = text if isinstance(parsed, dict) and not text.lstrip().startswith("{") else parsed


def _in_words(where: str, problem: Any) -> str:
    loc = [str(part) for part in problem["loc"]]
    key = ".".join(loc) or "job"
    if problem["type"] == "extra_forbidden":
        section: type[BaseModel] = DistillationJob
        for part in loc[:-1]:
            field = section.model_fields.get(part)
            kinds = (field.annotation, *get_args(field.annotation)) if field else ()
            section = next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), section)
        everywhere: dict[str, list[str]] = {}
        for row in field_table():
            everywhere.setdefault(row[0].rsplit(".", 1)[-1], []).append(row[0])
        near = difflib.get_close_matches(loc[-1], section.model_fields, n=1, cutoff=0.5)
        if loc[-1] in everywhere:
            hint = f"It belongs at {' or '.join(map(repr, everywhere[loc[-1]]))}."
        elif near:
            hint = f"Did you mean {'.'.join([*loc[:-1], near[0]])!r}?"
        else:
            hint = f"Known here: {', '.join(section.model_fields)}."
        return f"{where}: unknown key {key!r}. {hint}"
    if problem["type"] == "missing":
        return f"{where}: {key} is missing."
    message = problem["msg"].removeprefix("Value error, ")
    given = f" (given: {problem['input']!r})" if loc and not isinstance(problem["input"], dict) else ""
    return f"{where}: {key}: {message}{given}"
