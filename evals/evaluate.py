"""One evaluation, from contestants and data to a report: replay, measure, score, compare, write."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distiller.chat import OpenOptions, Sampling
from distiller.errors import DataError, RunError
from distiller.job import Evaluation, TeacherPrice
from distiller.pipeline import load_split
from distiller.progress import Progress
from distiller.runs import Run, file_hash, now, versions
from distiller.schema import Conversation, write_jsonl, write_text
from distiller.tasks import TASKS
from distiller.work import locked
from evals.compare import add_intervals, comparisons, relate, verdicts
from evals.contestants import ROLE_WORDS, Contestant, file_names, of_run
from evals.measure import AT_ONCE, measure
from evals.metrics import BLEU, Similarity
from evals.replay import replay
from evals.scoring import Scored, by_group, items_of, replies_in_order, score_replies, summary
from evals.statistics import percentile


@dataclass(frozen=True)
class Setup:
    """What an evaluation needs beside contestants and data."""

    folder: Path
    settings: Evaluation
    options: OpenOptions
    task_type: str = "conversation"
    training: Sequence[Conversation] = ()
    system_prompt: str | None = None
    price: TeacherPrice | None = None
    title: str = "Evaluation"


def evaluate_run(run: Run, *, free_running: bool | None = None, quiet: bool = False) -> Path:
    """Scores a finished run; the report lies in its folder. Work that is done is not done again."""
    if run.manifest is None:
        raise RunError(f"Run {run.id} is not finished. Go on with: python -m distiller run {run.path('job.yaml')}")
    job = run.job
    data = load_split(run, "test")
    if not data:
        raise DataError(f"Run {run.id} has no test data. Name a file: --data FILE.jsonl, or test_data in the job.")
    settings = job.evaluation.model_copy(update={} if free_running is None else {"free_running": free_running})
    options = OpenOptions(job.precision, job.max_batch, job.teacher_key_variable, job.teacher_concurrency)
    setup = Setup(
        folder=run.folder,
        settings=settings,
        options=options,
        task_type=job.task_type,
        training=load_split(run, "train"),
        price=job.teacher_price,
        title=f"Run {run.id}",
    )
    done = run.path("report.json")
    if done.exists():
        old = json.loads(done.read_text("utf-8"))
        if old["settings"] == settings.model_dump(mode="json"):
            Progress(quiet=quiet).say(f"Run {run.id} is evaluated already: {run.path('report.md')}")
            return done
    progress = Progress(run.path("events.jsonl"), quiet=quiet)
    return _reported(of_run(run), data, run.path("data", "test.jsonl"), setup, progress)


def evaluate_models(
    contestants: Sequence[Contestant],
    data: Sequence[Conversation],
    out: Path,
    settings: Evaluation,
    options: OpenOptions,
    *,
    system_prompt: str | None = None,
    training: Sequence[Conversation] = (),
    quiet: bool = False,
) -> Path:
    """Any models on any conversations; report and predictions go to `out`."""
    data_file = out / "data.jsonl"
    write_jsonl(data_file, data)
    setup = Setup(out, settings, options, system_prompt=system_prompt, training=training, title="Comparison")
    return _reported(contestants, data, data_file, setup, Progress(out / "events.jsonl", quiet=quiet))


def _reported(
    contestants: Sequence[Contestant], data: Sequence[Conversation], data_file: Path, setup: Setup, progress: Progress
) -> Path:
    with locked(setup.folder), progress.work():
        progress.event("stage", stage="evaluate")
        return evaluate(contestants, data, data_file, setup, progress)


def evaluate(
    contestants: Sequence[Contestant], data: Sequence[Conversation], data_file: Path, setup: Setup, progress: Progress
) -> Path:
    from evals.report import write_report

    settings = setup.settings
    sampling = Sampling(max_tokens=settings.max_tokens)
    items = items_of(data)
    scorer = TASKS[setup.task_type].scorer(data, setup.training)
    similarity = Similarity(settings.embedding_model)
    replies: dict[str, list[str]] = {}
    free: dict[str, list[str]] = {}
    files = file_names(contestants)
    modes = ((False, replies, ""), (True, free, ".free")) if settings.free_running else ((False, replies, ""),)
    for contestant in contestants:
        for free_running, kept, suffix in modes:
            predictions = replay(
                contestant,
                data,
                setup.folder / "predictions" / f"{files[contestant.name]}{suffix}.jsonl",
                sampling=sampling,
                free_running=free_running,
                options=setup.options,
                progress=progress,
                system_prompt=setup.system_prompt,
            )
            kept[contestant.name] = replies_in_order(items, predictions)
    measured: dict[str, dict[str, Any]] = {}
    with progress.track("Measuring times and memory", len(contestants), "models") as tracker:
        for contestant in contestants:
            measured[contestant.name] = measure_once(contestant, files[contestant.name], data_file, setup)
            tracker.advance()
    teachers = [c.name for c in contestants if c.role == "teacher"]
    teacher = teachers[0] if len(teachers) == 1 else None
    scored = {
        c.name: score_replies(items, replies[c.name], scorer, similarity, replies[teacher] if teacher else None)
        for c in contestants
    }
    free_scored = {name: score_replies(items, texts, scorer, similarity, None) for name, texts in free.items()}
    rows = [
        _row(c, items, scored[c.name], free_scored.get(c.name), measured[c.name], scorer.kind, setup)
        for c in contestants
    ]
    relate(rows)
    pairs = comparisons(items, scored, {c.name: c.role for c in contestants})
    add_intervals(rows, scored, pairs)
    report = {
        "title": setup.title,
        "created": now(),
        "task_type": setup.task_type,
        "settings": settings.model_dump(mode="json"),
        "data": {
            "file": data_file.name,
            "sha256": file_hash(data_file),
            "conversations": len(data),
            "turns": len(items),
        },
        "accuracy_kind": scorer.kind,
        "accuracy_note": scorer.note,
        "embedding_model": settings.embedding_model,
        "embedding_truncated_texts": similarity.truncated,
        "at_once": AT_ONCE,
        "roles": {c.name: ROLE_WORDS.get(c.role or "", "") for c in contestants},
        "rows": rows,
        "comparisons": pairs,
        "verdicts": verdicts(rows, pairs),
        "groups": {c.name: by_group(items, scored[c.name]) for c in contestants},
        "batch_dependent": _batch_dependent(items, replies, measured),
        "versions": versions(),
        "conversations": _transcripts(items, scored),
    }
    return write_report(report, setup.folder)


def measure_once(contestant: Contestant, file_name: str, data_file: Path, setup: Setup) -> dict[str, Any]:
    path = setup.folder / "predictions" / f"{file_name}.measured.json"
    if path.exists():
        return json.loads(path.read_text("utf-8"))
    settings = setup.settings
    figures = measure(
        contestant, data_file, settings.timed_turns, settings.max_tokens, setup.options, setup.system_prompt
    )
    write_text(path, json.dumps(figures))
    return figures


def _row(
    contestant: Contestant,
    items: Sequence[Any],
    scored: Scored,
    free: Scored | None,
    figures: dict[str, Any],
    accuracy_kind: str | None,
    setup: Setup,
) -> dict[str, Any]:
    """One line of the leaderboard: every key there, null where unknown."""
    scores = summary(items, scored)
    hourly = figures["replies_per_hour"]
    row: dict[str, Any] = {"model": contestant.name, "role": contestant.role, "rank": None}
    row |= {key: scores.get(key) for key in ("accuracy", "accuracy_ci")}
    row |= {"accuracy_kind": accuracy_kind, "retention": None, "retention_ci": None, "improvement": None}
    row["improvement_ci"] = None
    row |= {key: scores.get(key) for key in ("bleu", "bleu_ci")}
    row["bleu_signature"] = BLEU.signature
    for name in ("chrf", "embedding_similarity", "teacher_bleu", "teacher_similarity"):
        row |= {name: scores.get(name), f"{name}_ci": scores.get(f"{name}_ci")}
    own_way = summary(items, free) if free is not None else {}
    row |= {"free_accuracy": own_way.get("accuracy"), "free_accuracy_ci": own_way.get("accuracy_ci")}
    row |= {
        "ttft_p50_s": percentile(figures["ttft_s"], 50),
        "latency_p50_s": percentile(figures["latency_s"], 50),
        "latency_p95_s": percentile(figures["latency_s"], 95),
        "tokens_per_s": figures["tokens_per_s"],
        "replies_per_hour": hourly,
        "weights_mb": figures["weights_mb"],
        "peak_memory_mb": figures["peak_memory_mb"],
        "parameters": figures["parameters"],
        "cpu_s_per_reply": figures["cpu_s_per_reply"],
        "cost_per_1k": _cost_per_1k(figures, contestant, setup),
        "n": scores["n"],
    }
    if contestant.role == "teacher":  # a text against itself says nothing
        row |= dict.fromkeys(("teacher_bleu", "teacher_bleu_ci", "teacher_similarity", "teacher_similarity_ci"))
    return row


def _cost_per_1k(figures: dict[str, Any], contestant: Contestant, setup: Setup) -> float | None:
    """USD: an API's by its token price; a local model's by the machine-hour over the replies an hour."""
    if figures["parameters"] is not None:
        return 1000 * setup.settings.machine_hour_usd / figures["replies_per_hour"]
    if contestant.role != "teacher" or setup.price is None or figures["mean_prompt_tokens"] is None:
        return None
    tokens = figures["mean_prompt_tokens"] * setup.price.input_per_million
    return (tokens + figures["mean_completion_tokens"] * setup.price.output_per_million) / 1e6 * 1000


def _batch_dependent(
    items: Sequence[Any], replies: dict[str, list[str]], measured: dict[str, dict[str, Any]]
) -> dict[str, float]:
    """By model, the share of replies that came out differently alone than in their batch."""
    place = {(item.conversation.id, item.turn.index): k for k, item in enumerate(items)}
    return {
        name: sum(
            text != replies[name][place[tuple(where)]] for where, text in zip(m["places"], m["texts"], strict=True)
        )
        / len(m["places"])
        for name, m in measured.items()
    }


def _transcripts(items: Sequence[Any], scored: dict[str, Scored]) -> list[dict[str, Any]]:
    """Every turn with what each model said, for the reader and for the app."""
    return [
        {
            "conversation": item.conversation.id,
            "turn": item.turn.index + 1,
            "intent": item.conversation.intent,
            "query": item.turn.query,
            "reference": item.turn.reference,
            "facts": item.turn.facts,
            "replies": {
                name: {
                    "text": s.replies[k],
                    "correct": s.scores[k].correct,
                    "missing": s.scores[k].missing,
                    "forbidden": s.scores[k].forbidden,
                }
                for name, s in scored.items()
            },
        }
        for k, item in enumerate(items)
    ]
