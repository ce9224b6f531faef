"""The stages in their order. Each reads the last one's files in the run folder and writes its own.

    prepare → adapt_teacher → generate → curate → student → train → reference_trained → manifest

`run_job` does what is not done yet. Stopping at any moment loses at most a minute of training and the
replies that were under way.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distiller.answer import CompletionStore
from distiller.chat import OpenOptions, open_model
from distiller.chat.base import Sampling
from distiller.chat.registry import local_source
from distiller.curate import curate
from distiller.edits import APPLIED, SPLITS, by_turn, read_edits, turn_counts
from distiller.errors import ModelError, RunError
from distiller.generate import Answered, count_turns, write_synthetic
from distiller.grounding import in_policy_words
from distiller.job import CUT_FROM_TEACHER, DistillationJob, Hyperparameters
from distiller.progress import Progress
from distiller.prompting import Prompting, in_training, student_prompting, teacher_prompting
from distiller.runs import Run, file_hash, folder_hash, now, open_run_of, runs_folder, versions
from distiller.sampling import first_turns, stratified
from distiller.schema import BadLine, Conversation, read_conversations, write_jsonl, write_text
from distiller.student import build_student
from distiller.tasks import TASKS, ToScore

if TYPE_CHECKING:
    from distiller.training.tokenize import Example
    from distiller.training.trainer import TrainingData


def run_job(job: DistillationJob, *, skip_bad: bool = False, quiet: bool = False, until: str | None = None) -> Run:
    """The run of `job`, brought to its end (or to the end of stage `until`). Raises DistillerError."""
    run = open_run_of(job)
    with run.locked():
        progress = Progress(run.path("events.jsonl"), quiet=quiet)
        if run.manifest is not None:
            progress.say(f"Run {run.id} is complete already; nothing to do.")
            return run
        with progress.work():
            progress.say(f"Run {run.id} → {run.folder}")
            for name, stage in STAGES.items():
                if name not in run.state:
                    began = time.monotonic()
                    progress.event("stage", stage=name)
                    figures = stage(run, job, progress, skip_bad)
                    run.finish_stage(name, seconds=round(time.monotonic() - began, 1), **figures)
                    progress.event("stage_done", stage=name, **figures)
                if name == until:
                    return run
            _write_manifest(run, job)
        progress.say(f"Run {run.id}: the student is in {run.path('student')}")
    return run


def _prepare(run: Run, job: DistillationJob, progress: Progress, skip_bad: bool) -> dict[str, Any]:
    """Reads the data, takes the sample, and keeps both in the run folder."""
    files = {"train": job.training_data, "validation": job.validation_data, "test": job.test_data}
    sizes = {"train": job.sample.training, "validation": job.sample.validation, "test": job.sample.test}
    bad: list[BadLine] = []
    figures: dict[str, Any] = {}
    for split, path in files.items():
        if path is None:
            continue
        found = read_conversations(path, column_map=job.column_map, bad=bad if skip_bad else None)
        chosen = [first_turns(c, job.sample.turns) for c in stratified(found, sizes[split], job.seed)]
        write_jsonl(run.path("data", f"{split}.jsonl"), chosen)
        figures[split] = {"conversations": len(chosen), "of": len(found), "turns": count_turns(chosen)}
    if bad:
        rows = [{"file": str(b.file), "line": b.line, "reason": b.reason, "text": b.text} for b in bad]
        write_jsonl(run.path("quarantine.jsonl"), rows)
        progress.say(f"{len(bad)} bad lines were left out; they are in {run.path('quarantine.jsonl')}")
    if job.curation.edits:
        edits = read_edits(job.curation.edits)
        counted = by_turn(edits, {split: turn_counts(load_split(run, split)) for split in files})
        write_jsonl(run.path(*APPLIED), edits)
        figures["edits"] = sum(map(len, counted.values()))
    # Now, and not at the end: what was read is what has to be named, should a file change meanwhile.
    sources = {
        "training_data": job.training_data,
        "validation_data": job.validation_data,
        "test_data": job.test_data,
        "policies": job.retrieval.policies,
        "questions": job.retrieval.questions,
        "edits": job.curation.edits,
    }
    figures["sha256"] = {name: file_hash(path) for name, path in sources.items() if path}
    return figures | {"quarantined": len(bad)}


def load_split(run: Run, split: str) -> list[Conversation]:
    path = run.path("data", f"{split}.jsonl")
    return read_conversations(path) if path.exists() else []


def _adapt_teacher(run: Run, job: DistillationJob, progress: Progress, skip_bad: bool) -> dict[str, Any]:
    """Fine-tunes a local teacher on the references, each under the prompt that it will have in service."""
    settings = job.teacher_adaptation
    if not settings.enabled:
        return {"skipped": True}
    source = local_source(job.teacher_model)
    assert source is not None, "the job refuses adaptation of teachers without weights"
    data = _references(run, in_training(job, teacher_prompting(job)), quote=settings.quote_policies)
    return _train_one(run, job, progress, "Adapting the teacher", Path(source), "teacher", data, settings)


def _generate(run: Run, job: DistillationJob, progress: Progress, skip_bad: bool) -> dict[str, Any]:
    return asyncio.run(_generate_async(run, job, progress))


async def _generate_async(run: Run, job: DistillationJob, progress: Progress) -> dict[str, Any]:
    """The validation turns first: they show whether the teacher is worth paying for the rest."""
    options = OpenOptions(job.precision, job.max_batch, job.teacher_key_variable, job.teacher_concurrency)
    teacher = open_model(run.model_name("teacher"), options)
    if job.retrieval.questions:
        progress.say(f"Reading the questions of {job.retrieval.questions}: the first time takes a minute or so.")
    prompting = in_training(job, teacher_prompting(job))
    sampling = Sampling.model_validate(job.teacher_sampling.model_dump() | {"seed": job.seed})
    store = CompletionStore(runs_folder() / "completions.sqlite")
    figures: dict[str, Any] = {}
    try:
        for split in ("validation", "train"):
            data = load_split(run, split)
            with progress.track(f"Teacher answers {split}", count_turns(data), "replies") as tracker:
                path = run.path(f"synthetic.{split}.jsonl")
                count = _Spend(progress, split)
                synthetic = await write_synthetic(teacher, data, prompting, sampling, store, path, tracker, count)
                count.say()
            figures[split] = _spend(synthetic, job)
            if split == "validation":
                figures["teacher_validation"] = _score_teacher(run, job, data, synthetic, progress)
    finally:
        store.close()
        await teacher.aclose()
    return figures


class _Spend:
    """Counts the teacher's tokens as its replies come, and says so now and then."""

    def __init__(self, progress: Progress, split: str) -> None:
        self.progress, self.split, self.said_at = progress, split, 0.0
        self.tokens = {"replies": 0, "prompt_tokens": 0, "completion_tokens": 0}

    def __call__(self, item: Answered) -> None:
        for completion in item.completions:
            self.tokens["replies"] += 1
            self.tokens["prompt_tokens"] += completion.prompt_tokens or 0
            self.tokens["completion_tokens"] += completion.completion_tokens or 0
        if time.monotonic() - self.said_at > 2:
            self.say()

    def say(self) -> None:
        self.said_at = time.monotonic()
        self.progress.event("spend", split=self.split, tokens=self.tokens)


def _score_teacher(
    run: Run,
    job: DistillationJob,
    data: Sequence[Conversation],
    synthetic: Sequence[Conversation],
    progress: Progress,
) -> dict[str, Any]:
    scorer = TASKS[job.task_type].scorer(data, load_split(run, "train"))
    items = [
        ToScore(conversation, turn, answered.reference or "")
        for conversation, said in zip(data, synthetic, strict=True)
        for turn, answered in zip(conversation.turns(), said.turns(), strict=True)
    ]
    scored = [score.correct for score in scorer.score(items) if score.correct is not None]
    if not scored:
        progress.say(f"The teacher could not be scored on the validation data ({scorer.note}).")
        return {"accuracy": None, "accuracy_kind": scorer.kind, "n": 0}
    accuracy = sum(scored) / len(scored)
    progress.say(f"Teacher on the validation data: {accuracy:.1%} of {len(scored)} turns correct ({scorer.kind}).")
    if accuracy < job.min_teacher_accuracy:
        text = (
            f"The teacher {job.teacher_model} is bad at this domain: {accuracy:.1%} correct, below "
            f"min_teacher_accuracy {job.min_teacher_accuracy:.0%}. A student learns its mistakes. Give it policy text "
            "(retrieval.policies), clearer teacher_instructions, or another teacher."
        )
        if job.stop_on_bad_teacher:
            raise RunError(text + " Stopped before the training turns were asked, as stop_on_bad_teacher says.")
        progress.say(f"[yellow]Warning:[/yellow] {text}")
    return {"accuracy": accuracy, "accuracy_kind": scorer.kind, "n": len(scored)}


def _spend(synthetic: Sequence[Conversation], job: DistillationJob) -> dict[str, Any]:
    completions = [c for conversation in synthetic for c in conversation.metadata["completions"]]
    prompt = sum(c.get("prompt_tokens") or 0 for c in completions)
    output = sum(c.get("completion_tokens") or 0 for c in completions)
    price = job.teacher_price
    cost = (prompt * price.input_per_million + output * price.output_per_million) / 1e6 if price else None
    return {
        "replies": len(completions),
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "cost_usd": cost,
    }


def _curate(run: Run, job: DistillationJob, progress: Progress, skip_bad: bool) -> dict[str, Any]:
    test = load_split(run, "test")
    figures: dict[str, Any] = {}
    dropped: list[dict[str, Any]] = []
    data = {split: load_split(run, split) for split in SPLITS}
    edits = by_turn(
        read_edits(run.path(*APPLIED)) if job.curation.edits else [],
        {split: turn_counts(conversations) for split, conversations in data.items()},
    )
    for split in SPLITS:
        synthetic = read_conversations(run.path(f"synthetic.{split}.jsonl"))
        gold = data[split]
        if job.curation.quote_policies:
            gold, _ = _with_policies(in_training(job, teacher_prompting(job)), gold, quote=True)
        result = curate(synthetic, gold, test, job.curation, deduplicate=split == "train", edits=edits[split])
        write_jsonl(run.path(f"curated.{split}.jsonl"), result.conversations)
        dropped += [{"split": split, **row} for row in result.dropped]
        figures[split] = result.summary
        table = ", ".join(f"{reason} {n}" for reason, n in sorted(result.summary.items(), key=lambda kv: -kv[1]))
        progress.say(f"Curated {split}: {table}")
        if not result.conversations:
            raise RunError(
                f"Curation dropped every reply to the {split} turns ({table}). Look at {run.path('dropped.jsonl')}, then "
                "loosen curation, or set curation.use_reference_for_dropped."
            )
    write_jsonl(run.path("dropped.jsonl"), dropped)
    return figures


def _student(run: Run, job: DistillationJob, progress: Progress, skip_bad: bool) -> dict[str, Any]:
    """Builds the student before distillation: the baseline."""
    name = run.model_name("teacher") if job.student_model == CUT_FROM_TEACHER else job.student_model
    source = local_source(name)
    if source is None:
        raise ModelError(f"student_model {job.student_model!r} has no weights to train.")
    texts = [job.system_prompt]
    for name in (
        "curated.train.jsonl",
        "curated.validation.jsonl",
        "data/train.jsonl",
        "data/validation.jsonl",
    ):
        for conversation in read_conversations(run.path(name)):
            texts += [message.content for message in conversation.messages]
    shape = job.student

    def examples(tokenizer: Any) -> list[Example]:
        from distiller.training.tokenize import tokenize_all

        seen = _seen_by_student(job, read_conversations(run.path("curated.validation.jsonl")))
        return tokenize_all(seen, tokenizer, job.hyperparameters.max_length)

    if not run.path("baseline").exists():
        by_importance = shape.layer_choice == "importance"
        figures = build_student(
            source,
            texts,
            run.path("baseline"),
            shape.layers,
            shape.vocabulary_size,
            intermediate_size=shape.intermediate_size,
            by_importance=by_importance,
            examples=examples if by_importance or shape.intermediate_size else None,
            say=progress.say,
        )
        write_text(run.path("baseline", "student.json"), json.dumps(figures))
    figures = json.loads(run.path("baseline", "student.json").read_text("utf-8"))
    progress.say(
        f"Student: {figures['parameters'] / 1e6:.1f}M parameters, cut from {figures['source_parameters'] / 1e6:.1f}M"
    )
    return figures


def _train(run: Run, job: DistillationJob, progress: Progress, skip_bad: bool) -> dict[str, Any]:
    from distiller.training.trainer import TrainingData

    training = read_conversations(run.path("curated.train.jsonl"))
    validation = read_conversations(run.path("curated.validation.jsonl"))
    source, views = None, {}
    if job.hyperparameters.loss != "sequence":
        source = local_source(run.model_name("teacher"))
        assert source is not None, "the job refuses logit losses for teachers without weights"
        seen = teacher_prompting(job)
        views = {c.id: seen.as_seen(c, c.metadata["policy"]) for c in [*training, *validation]}

    data = TrainingData(_seen_by_student(job, training), _seen_by_student(job, validation), source, views)
    return _train_student(run, job, progress, "Training the student", "student", data)


def _seen_by_student(job: DistillationJob, curated: Sequence[Conversation]) -> list[Conversation]:
    prompting = student_prompting(job)
    return [prompting.as_seen(c, c.metadata["policy"] if job.retrieval.student else None) for c in curated]


def _reference_trained(run: Run, job: DistillationJob, progress: Progress, skip_bad: bool) -> dict[str, Any]:
    """The same student, settings and epochs, on the references alone: what distillation has to beat."""
    if not job.reference_trained:
        return {"skipped": True}
    if not any(turn.reference for conversation in load_split(run, "train") for turn in conversation.turns()):
        return {"skipped": True, "why": "the training data has no references"}
    data = _references(run, in_training(job, student_prompting(job)))
    return _train_student(run, job, progress, "Training on references alone", "reference_trained", data)


def _references(run: Run, prompting: Prompting, *, quote: bool = False) -> TrainingData:
    from distiller.training.trainer import TrainingData

    def seen(split: str) -> list[Conversation]:
        conversations, policies = _with_policies(prompting, load_split(run, split), quote=quote)
        return [prompting.as_seen(c, policy) for c, policy in zip(conversations, policies, strict=True)]

    return TrainingData(seen("train"), seen("validation"))


def _with_policies(
    prompting: Prompting, conversations: list[Conversation], *, quote: bool
) -> tuple[list[Conversation], list[list[str]]]:
    """The conversations, with `quote` in the policies' own words, and the policy text of their turns."""
    policies = prompting.reference_policies(conversations)
    if quote:
        assert prompting.policies is not None, "the job refuses quotes without policies"
        conversations = in_policy_words(conversations, prompting.policies, policies)
    return conversations, policies


def _train_student(
    run: Run, job: DistillationJob, progress: Progress, label: str, name: str, data: TrainingData
) -> dict[str, Any]:
    return _train_one(run, job, progress, label, run.path("baseline"), name, data, job.hyperparameters)


def _train_one(
    run: Run,
    job: DistillationJob,
    progress: Progress,
    label: str,
    start: Path,
    name: str,
    data: TrainingData,
    settings: Hyperparameters,
) -> dict[str, Any]:
    """Trains the model in `start` on `data` into the run's folder `name`, and says what came out."""
    from distiller.training.trainer import train

    history = train(
        start, run.path(name), data, settings, precision=job.precision, seed=job.seed, progress=progress, label=label
    )
    best = history.validation[history.best_epoch]
    speed = history.tokens / history.seconds if history.seconds else 0.0
    progress.say(
        f"{label}: best epoch {history.best_epoch + 1} of {len(history.validation)}, "
        f"validation loss {best['loss']:.3f}, {speed:,.0f} target tokens/s"
    )
    return {
        "epochs": len(history.validation),
        "best_epoch": history.best_epoch + 1,
        "train": history.train,
        "validation": history.validation,
        "target_tokens": history.tokens,
        "training_seconds": round(history.seconds, 1),
        "sha256": folder_hash(run.path(name)),
    }


Stage = Callable[[Run, DistillationJob, Progress, bool], dict[str, Any]]
STAGES: dict[str, Stage] = {
    "prepare": _prepare,
    "adapt_teacher": _adapt_teacher,
    "generate": _generate,
    "curate": _curate,
    "student": _student,
    "train": _train,
    "reference_trained": _reference_trained,
}


def _write_manifest(run: Run, job: DistillationJob) -> None:
    from distiller.training.trainer import forget_checkpoint

    stages = run.state
    manifest = {
        "id": run.id,
        "finished": now(),
        "versions": versions(),
        "seed": job.seed,
        "data": stages["prepare"]["sha256"],
        "student_sha256": stages["train"]["sha256"],
        "seconds": {name: figures.get("seconds") for name, figures in stages.items()},
        "stages": stages,
    }
    write_text(run.path("manifest.json"), json.dumps(manifest, indent=2, ensure_ascii=False))
    for name in ("teacher", "student", "reference_trained"):
        forget_checkpoint(run.path(name))
