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
from ui.uploads import Upload, columns_of, fetch_hub, folder_of, guess_columns, owns, read_upload, split_upload

VISITOR, OTHER = Visitor("v1", False), Visitor("v2", False)


def brought(path: Path) -> Upload:
    return read_upload(path, guess_columns(columns_of(path)))


def test_bad_lines_are_counted_and_the_rest_is_used(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "data.jsonl", talks(4))
    with (tmp_path / "data.jsonl").open("a") as file:
        file.write("{broken\n")
    found = brought(tmp_path / "data.jsonl")
    assert (len(found.conversations), len(found.bad)) == (4, 1)
    (tmp_path / "none.jsonl").write_text("{broken\n")
    with pytest.raises(DataError, match=r"^none\.jsonl.*Line 1"):
        brought(tmp_path / "none.jsonl")


def test_a_split_has_every_conversation_once_and_is_its_visitors_own(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "My data (1).jsonl", talks(25))
    parts = split_upload(brought(tmp_path / "My data (1).jsonl"), VISITOR)
    ids = {name: [c.id for c in read_conversations(path)] for name, path in parts.items()}
    assert {name: len(found) for name, found in ids.items()} == {
        "training_data": 21,
        "validation_data": 2,
        "test_data": 2,
    }
    assert sorted(itertools.chain(*ids.values())) == sorted(c.id for c in talks(25))
    for path in parts.values():
        assert owns(VISITOR, path)
        assert not owns(OTHER, path)
        assert " " not in str(path.name)
    assert not owns(VISITOR, folder_of(VISITOR) / ".." / OTHER.id / "x.jsonl")
    write_jsonl(tmp_path / "few.jsonl", talks(9))
    with pytest.raises(DataError, match="at least 10"):
        split_upload(brought(tmp_path / "few.jsonl"), VISITOR)


def test_a_hub_data_set_is_loaded_by_the_librarys_own_loader(tmp_path: Path) -> None:
    folder = tmp_path / "hub"
    folder.mkdir()
    rows = [{"instruction": f"Question {k}?", "response": f"Answer {k}.", "intent": "ask"} for k in range(12)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = fetch_hub(str(folder), "", "train", VISITOR)
    assert owns(VISITOR, path)
    found = brought(path)
    assert len(found.conversations) == 12
    assert found.conversations[3].turns()[0].query == "Question 3?"
    assert found.conversations[3].turns()[0].reference == "Answer 3."
    with pytest.raises(DataError, match="cannot be loaded from the Hub"):
        fetch_hub("nobody/nothing-here", "", "train", VISITOR)
