"""Data that visitors bring: kept apart, looked into, split."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from distiller.errors import DataError
from distiller.schema import read_conversations, write_jsonl
from tests.tiny import talks
from ui.access import Visitor
from ui.uploads import MAX_MB, fetch_hub, guess, keep, look_into, owns, split_for_job

VISITOR, OTHER = Visitor("v1", False), Visitor("v2", False)


def test_a_file_is_its_visitors_own(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "My data (1).jsonl", talks(3))
    path = keep(tmp_path / "My data (1).jsonl", VISITOR)
    assert path == keep(tmp_path / "My data (1).jsonl", VISITOR)  # the same content is the same file
    assert owns(VISITOR, path)
    assert not owns(OTHER, path)
    assert not owns(VISITOR, path.parent / ".." / OTHER.id / "x.jsonl")
    assert " " not in path.name


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [("a.exe", b"", "upload one of"), ("b.csv", b"x" * (MAX_MB * 1_000_000 + 1), "at most 20 MB")],
)
def test_what_is_too_large_or_no_data_is_refused(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words):
        keep(tmp_path / name, VISITOR)


def test_the_columns_of_a_table_are_guessed_and_can_be_chosen(tmp_path: Path) -> None:
    path = tmp_path / "bitext.csv"
    path.write_text("flags,instruction,category,intent,response\nB,Hi?,C,greet,Hello.\nQ,Bye,C,leave,See you.\n")
    found = look_into(path)
    assert found.column_map == {"user": "instruction", "assistant": "response", "intent": "intent"}
    assert next((c.turns()[0].query, c.turns()[0].reference, c.intent) for c in found.conversations) == (
        "Hi?",
        "Hello.",
        "greet",
    )
    swapped = look_into(path, {"user": "response", "assistant": "instruction"})
    assert swapped.conversations[0].turns()[0].query == "Hello."
    with pytest.raises(DataError):
        look_into(path, {"user": "absent"})
    assert guess(["Question", "Answer"]) == {"user": "Question", "assistant": "Answer"}
    assert guess(["a", "b"]) == {}


def test_bad_lines_are_counted_and_the_rest_is_used(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "data.jsonl", talks(4))
    with (tmp_path / "data.jsonl").open("a") as file:
        file.write("{broken\n")
    found = look_into(tmp_path / "data.jsonl")
    assert (len(found.conversations), len(found.bad)) == (4, 1)
    assert found.columns == []
    (tmp_path / "none.jsonl").write_text("{broken\n")
    with pytest.raises(DataError):
        look_into(tmp_path / "none.jsonl")


def test_a_split_has_every_conversation_once(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "data.jsonl", talks(25))
    parts = split_for_job(look_into(tmp_path / "data.jsonl"))
    ids = {name: [c.id for c in read_conversations(path)] for name, path in parts.items()}
    assert {name: len(found) for name, found in ids.items()} == {
        "training_data": 21,
        "validation_data": 2,
        "test_data": 2,
    }
    assert sorted(itertools.chain(*ids.values())) == sorted(c.id for c in talks(25))
    write_jsonl(tmp_path / "few.jsonl", talks(9))
    with pytest.raises(DataError, match="at least 10"):
        split_for_job(look_into(tmp_path / "few.jsonl"))


def test_a_hub_data_set_is_loaded_by_the_librarys_own_loader(tmp_path: Path) -> None:
    folder = tmp_path / "hub"
    folder.mkdir()
    rows = [{"instruction": f"Question {k}?", "response": f"Answer {k}.", "intent": "ask"} for k in range(12)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = fetch_hub(str(folder), "", "train", VISITOR)
    assert owns(VISITOR, path)
    assert len(look_into(path).conversations) == 12
    with pytest.raises(DataError, match="cannot be loaded from the Hub"):
        fetch_hub("nobody/nothing-here", "", "train", VISITOR)
