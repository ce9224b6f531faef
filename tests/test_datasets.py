"""The data that ships: the test set stands apart, wording is varied, every file loads."""

from __future__ import annotations

import importlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from distiller.describe import commonest_sentence
from distiller.embedding import load_encoder
from distiller.schema import Conversation, read_conversations
from tests.conftest import PROJECT

HELPDESK = PROJECT / "datasets" / "helpdesk"
#: A test question and a training question may be about the same policy, and not be the same question.
MAX_SIMILARITY = 0.9
MIN_CONVERSATIONS = {"train": 450, "validation": 80, "test": 150}


@pytest.fixture(scope="module")
def helpdesk() -> dict[str, list[Conversation]]:
    return {split: read_conversations(HELPDESK / f"{split}.jsonl") for split in MIN_CONVERSATIONS}


@pytest.mark.parametrize("split", MIN_CONVERSATIONS)
def test_size_and_shape(helpdesk: dict[str, list[Conversation]], split: str) -> None:
    data = helpdesk[split]
    assert len(data) >= MIN_CONVERSATIONS[split]
    assert {len(c.turns()) for c in data} <= {2, 3, 4, 5}
    for conversation in data:
        turns = conversation.turns()
        assert all(turn.reference for turn in turns), conversation.id
        assert len(conversation.metadata["facts"]) == len(turns), conversation.id
        assert any(turn.facts for turn in turns), conversation.id
    tech = sum(c.metadata["category"] == "TECH" for c in data)
    assert tech >= 0.24 * len(data), "a quarter is step-by-step troubleshooting"


def test_enough_turns_to_train_on(helpdesk: dict[str, list[Conversation]]) -> None:
    assert sum(len(c.turns()) for c in helpdesk["train"]) >= 1200
    titles = (HELPDESK / "policies.md").read_text("utf-8").count("\n## ")
    assert 25 <= titles <= 30


def test_intents_are_the_same_everywhere(helpdesk: dict[str, list[Conversation]]) -> None:
    intents = {split: {c.intent for c in data} for split, data in helpdesk.items()}
    assert intents["train"] == intents["validation"] == intents["test"]


def test_no_test_turn_is_near_a_training_turn(helpdesk: dict[str, list[Conversation]]) -> None:
    encoder = load_encoder()
    seen = [(c.id, t.query) for c in [*helpdesk["train"], *helpdesk["validation"]] for t in c.turns() if t.facts]
    asked = [(c.id, t.query) for c in helpdesk["test"] for t in c.turns() if t.facts]
    cosines = encoder.encode([q for _, q in asked]) @ encoder.encode([q for _, q in seen]).T
    near = [
        (asked[i], seen[j], round(float(cosines[i, j]), 3))
        for i, j in zip(*(cosines > MAX_SIMILARITY).nonzero(), strict=True)
    ]
    assert near == []


def test_hard_test_conversations(helpdesk: dict[str, list[Conversation]]) -> None:
    cases = Counter(c.metadata.get("case") for c in helpdesk["test"])
    assert set(cases) == {"plain", "two_policies", "exception"}
    assert cases["two_policies"] + cases["exception"] >= 40


def test_no_sentence_is_a_habit(helpdesk: dict[str, list[Conversation]]) -> None:
    for data in helpdesk.values():
        share = commonest_sentence([t.reference for c in data for t in c.turns() if t.reference])
        assert share is not None
        assert share < 0.02


TASK_FILES = sorted((PROJECT / "datasets").glob("*/*.jsonl"))


@pytest.mark.parametrize("path", TASK_FILES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_every_file_loads_with_the_datasets_package(path: Path, tmp_path: Path) -> None:
    datasets: Any = importlib.import_module("datasets")  # mypy sees the folder of this project
    rows = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path))
    assert len(rows) == sum(1 for line in path.read_text("utf-8").splitlines() if line.strip())
    assert {"id", "messages", "metadata"} <= set(rows.column_names)


GOLD = {
    "qa": lambda reply, meta: reply in meta["answers"],
    "nli": lambda reply, meta: reply == meta["label"] and reply in {"entailment", "neutral", "contradiction"},
    "math": lambda reply, meta: reply.splitlines()[-1] == f"#### {meta['answer']}",
    "summarization": lambda reply, meta: len(reply.split()) <= 40 and bool(meta["facts"][0]),
}


@pytest.mark.parametrize("task", GOLD)
def test_the_other_tasks(task: str) -> None:
    folder = PROJECT / "datasets" / task
    queries: dict[str, set[str]] = {}
    for split, at_least in (("train", 60), ("test", 40)):
        rows = [json.loads(line) for line in (folder / f"{split}.jsonl").read_text("utf-8").splitlines()]
        assert len(rows) >= at_least
        for row in rows:
            (question, answer) = row["messages"]
            assert (question["role"], answer["role"]) == ("user", "assistant")
            assert GOLD[task](answer["content"], row["metadata"]), row["id"]
        queries[split] = {row["messages"][0]["content"] for row in rows}
        assert len(queries[split]) == len(rows)
    assert not queries["train"] & queries["test"]
