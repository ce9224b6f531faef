"""A run folder as a run leaves it, without a model: for what reads runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from distiller.curate import curate
from distiller.job import Curation, parse_job
from distiller.runs import Run, open_run_of
from distiller.schema import Conversation, write_jsonl
from tests.tiny import talk, talks

#: Whoever shows this as HTML, or as a template, runs it. Curation takes its braces for a gap to be filled in.
HOSTILE = '<img src=x onerror="document.title=\'owned\'"> ${document.title="owned"} {{7*7}} **bold**'
FILLERS = 30


def training() -> list[Conversation]:
    """Two turns about returns, one hostile one, and enough others for a second page."""
    returns = talk(
        "returns-1",
        "How long can I return it?",
        "You have 30 days.",
        "And when is my money back?",
        "Within 14 days.",
        intent="returns",
        facts=[[["30 days", "thirty days"]], [["14 days"]]],
    )
    hostile = talk("hostile-1", HOSTILE, f"Reference {HOSTILE}", intent="other")
    fillers = [c.model_copy(update={"metadata": {"intent": "filler"}}) for c in talks(FILLERS, prefix="f")]
    return [returns, hostile, *fillers]


SAID = {
    "returns-1": ["You have 30 days, of course.", "Within 30 days of your return."],
    "hostile-1": [f"Teacher {HOSTILE}"],
}


def answered(conversation: Conversation) -> Conversation:
    """The conversation with a teacher's replies."""
    turns = conversation.turns()
    said = SAID.get(conversation.id) or [f"{turn.reference} Anything else?" for turn in turns]
    texts = [text for turn, reply in zip(turns, said, strict=True) for text in (turn.query, reply)]
    more = {
        "references": [turn.reference for turn in turns],
        "policy": [f"- Policy line {turn.index}.\n- Another line." for turn in turns],
        "completions": [{"finish_reason": "stop"} for _ in turns],
    }
    return talk(conversation.id, *texts, **conversation.metadata | more)


def make_run(folder: Path, *, until: str = "manifest", **job: Any) -> Run:
    """A run in the runs folder, its data in `folder`. `until`: prepare, generate, curate or manifest."""
    data = {"train": training(), "validation": talks(2, prefix="v"), "test": talks(1, prefix="t")}
    for split, conversations in data.items():
        write_jsonl(folder / f"{split}.jsonl", conversations)
    value: dict[str, Any] = {
        "name": "desk",
        "teacher_model": "recorded:replies.jsonl",
        "student_model": "hf:nobody/none",
        "training_data": str(folder / "train.jsonl"),
        "validation_data": str(folder / "validation.jsonl"),
        "test_data": str(folder / "test.jsonl"),
        "hyperparameters": {"loss": "sequence"},
    }
    run = open_run_of(parse_job(value | job))
    for split, conversations in data.items():
        write_jsonl(run.path("data", f"{split}.jsonl"), conversations)
    run.finish_stage("prepare")
    if until == "prepare":
        return run
    rules = Curation(near_duplicate_similarity=1, max_intent_share=1)
    dropped = []
    for split in ("validation", "train"):
        synthetic = [answered(c) for c in data[split]]
        write_jsonl(run.path(f"synthetic.{split}.jsonl"), synthetic)
        if until != "generate":
            curated = curate(synthetic, data[split], data["test"], rules, deduplicate=split == "train")
            write_jsonl(run.path(f"curated.{split}.jsonl"), curated.conversations)
            dropped += [{"split": split, **row} for row in curated.dropped]
    run.finish_stage("generate")
    if until == "generate":
        return run
    write_jsonl(run.path("dropped.jsonl"), dropped)
    run.finish_stage("curate")
    if until == "manifest":
        run.path("manifest.json").write_text(json.dumps({"id": run.id}))
    return run
