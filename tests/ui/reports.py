"""A small report as `evals` writes it, with what a page must not take for HTML, and the folders it lies in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from distiller.job import parse_job
from distiller.runs import Run, open_run_of
from distiller.schema import write_text
from evals.background import REQUEST, evaluations_folder
from evals.report import write_report

HOSTILE = "<img src=x onerror=\"document.title='taken'\"> <b>bold</b>"
REFERENCE = "Send it back within 30 days; the label is in your account."
RIGHT = "You can send it back within 30 days, the label is in your account."
WRONG = "You can send it back within 14 days."
FACTS = [["30 days", "thirty days"], ["in your account"]]
#: By conversation the right and wrong of (teacher, student, baseline) in its two turns.
OUTCOMES = {
    "c-1": ((True, True, False), (True, False, True)),
    "c-2": ((False, False, False), (True, True, True)),
    "c-3": ((True, False, False), (None, None, None)),
}
ROLES = ("teacher", "student", "baseline")


def make_report(run: str = "desk-1") -> dict[str, Any]:
    models = {role: f"run:{run}/{role}" for role in ROLES}
    turns = [
        _turn(conversation, number, outcome, list(models.values()))
        for conversation, outcomes in OUTCOMES.items()
        for number, outcome in enumerate(outcomes, start=1)
    ]
    rows = [_row(role, model, 0.8 - 0.25 * k) for k, (role, model) in enumerate(models.items())]
    group = {"n": 2, "judged": 2, "accuracy": 0.5, "embedding_similarity": 0.6}
    groups = {"intent": {"delivery": group, "<b>returns</b>": group}, "turn": {"1": group, "2": group}}
    return {
        "title": f"Run {run}",
        "created": "2026-11-25T10:11:44Z",
        "task_type": "conversation",
        "settings": {"max_tokens": 64, "timed_turns": 6, "machine_hour_usd": 0.085},
        "data": {"file": "test.jsonl", "sha256": "0" * 64, "conversations": len(OUTCOMES), "turns": len(turns)},
        "accuracy_kind": "facts",
        "accuracy_note": "",
        "embedding_model": "bundled:all-minilm-l6-v2",
        "embedding_truncated_texts": 0,
        "at_once": 16,
        "roles": {model: f"what {role} is" for role, model in models.items()},
        "rows": rows,
        "comparisons": [],
        "verdicts": ["The student keeps 69% of the teacher's accuracy (55.0% against 80.0%)."],
        "groups": {model: groups for model in models.values()},
        "batch_dependent": dict.fromkeys(models.values(), 0.0),
        "versions": {},
        "conversations": turns,
    }


def _turn(conversation: str, number: int, outcome: tuple[bool | None, ...], models: list[str]) -> dict[str, Any]:
    texts = {True: RIGHT, False: WRONG, None: HOSTILE}
    return {
        "conversation": conversation,
        "turn": number,
        "intent": "delivery" if conversation == "c-1" else "<b>returns</b>",
        "query": f"How do I return a kettle? ({conversation}.{number})",
        "reference": REFERENCE,
        "facts": [] if None in outcome else FACTS,
        "replies": {
            model: {
                "text": texts[correct],
                "correct": correct,
                "missing": ["30 days", "in your account"] if correct is False else [],
                "forbidden": [],
            }
            for model, correct in zip(models, outcome, strict=True)
        },
    }


def _row(role: str, model: str, accuracy: float) -> dict[str, Any]:
    row: dict[str, Any] = {"model": model, "role": role, "rank": 1, "accuracy": accuracy, "accuracy_kind": "facts"}
    row |= {"accuracy_ci": [accuracy - 0.1, accuracy + 0.1], "retention": accuracy / 0.8, "improvement": accuracy - 0.3}
    row |= {"bleu": 9.0, "bleu_ci": [8.0, 10.0], "bleu_signature": "nrefs:1", "chrf": 25.0, "teacher_bleu": None}
    row |= {"embedding_similarity": 0.5, "embedding_similarity_ci": [0.4, 0.6], "teacher_similarity": None}
    row |= {"free_accuracy": None, "ttft_p50_s": 0.1, "latency_p50_s": accuracy, "latency_p95_s": 1.0}
    row |= {"tokens_per_s": 40.0, "replies_per_hour": 20_000.0, "weights_mb": 106.0, "peak_memory_mb": 1000 * accuracy}
    return row | {"parameters": 53_000_000, "cpu_s_per_reply": 0.5, "cost_per_1k": 0.004, "n": 5}


def make_run(**changes: Any) -> Run:
    """A run with a report, in the runs folder that is set."""
    value: dict[str, Any] = {"name": "desk", "teacher_model": "openai:some-model@https://models.example/v1"}
    value |= {"student_model": "bundled:smollm2-135m-instruct", "hyperparameters": {"loss": "sequence"}}
    value |= {"training_data": "none.jsonl", "validation_data": "none.jsonl"}
    run = open_run_of(parse_job(value, check_files=False))
    write_report(make_report(run.id) | changes, run.folder)
    return run


def make_evaluation(name: str, **request: Any) -> Path:
    """The folder of an evaluation that was asked for."""
    folder = evaluations_folder() / name
    asked = {"models": ["hf:/models/tiny", "recorded:a.jsonl"], "data": "datasets/helpdesk/test.jsonl", "options": []}
    write_text(folder / REQUEST, json.dumps(asked | request))
    return folder
