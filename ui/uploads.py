"""Data that a visitor brings: a file or a Hub data set, kept, looked into, and split for a job. No Gradio here.

A file is kept under its visitor and its content, so that the process of a run finds it and no other
visitor's job may name it.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distiller.errors import DataError
from distiller.runs import runs_folder
from distiller.sampling import split
from distiller.schema import BadLine, Conversation, read_conversations, write_jsonl
from ui.access import Visitor

MAX_MB = 20
TYPES = (".jsonl", ".json", ".csv", ".tsv")
MAX_HUB_ROWS = 20_000
#: Where a column goes → the names that it has in the public sets, the likeliest first.
USUAL_NAMES = {
    "user": ("user", "instruction", "query", "question", "customer", "prompt", "input", "text", "message"),
    "assistant": ("assistant", "response", "reply", "answer", "agent", "completion", "output"),
    "intent": ("intent", "label", "category", "topic"),
    "conversation": ("conversation_id", "dialogue_id", "dialog_id", "thread", "session_id"),
    "system": ("system", "system_prompt"),
}


@dataclass(frozen=True)
class Preview:
    """What is in a file: its columns where it is a table, and what they come to as conversations."""

    path: Path
    columns: list[str]
    column_map: dict[str, str]
    conversations: list[Conversation]
    bad: list[BadLine]

    @property
    def turns(self) -> int:
        return sum(len(conversation.turns()) for conversation in self.conversations)


def folder_of(visitor: Visitor) -> Path:
    return runs_folder() / "uploads" / visitor.id


def owns(visitor: Visitor, path: Path) -> bool:
    return path.resolve().is_relative_to(folder_of(visitor).resolve())


def keep(source: Path, visitor: Visitor) -> Path:
    """Copies an uploaded file to where its visitor's jobs find it. Raises DataError for a wrong type or size."""
    if source.suffix.lower() not in TYPES:
        raise DataError(f"{source.name}: a {source.suffix or 'nameless'} file; upload one of {', '.join(TYPES)}.")
    size = source.stat().st_size
    if size > MAX_MB * 1_000_000:
        raise DataError(
            f"{source.name}: {size / 1e6:.1f} MB; at most {MAX_MB} MB. Take a part of it, or use the command line."
        )
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:8]
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", source.stem).strip("-.")[:40] or "data"
    path = folder_of(visitor) / f"{name}-{digest}{source.suffix.lower()}"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, path)
    return path


def fetch_hub(name: str, config: str, split_name: str, visitor: Visitor) -> Path:
    """The rows of a Hub data set (or a folder of one) as JSONL, at most 20,000. Raises DataError."""
    import datasets as hub

    try:
        found = hub.load_dataset(  # type: ignore[attr-defined]
            name, config or None, split=f"{split_name or 'train'}[:{MAX_HUB_ROWS}]"
        )
    except Exception as error:  # the library raises what its many loaders raise
        raise DataError(
            f"{name}: cannot be loaded from the Hub ({type(error).__name__}: {error}). "
            "Check the name, the configuration and the split on its page, and whether this machine reaches the Hub."
        ) from None
    text = "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in found)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    path = folder_of(visitor) / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', name)[-40:].strip('-.')}-{digest}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def look_into(path: Path, column_map: Mapping[str, str] | None = None) -> Preview:
    """Reads the file with `column_map`, or a guess of it where it is None. Raises DataError where nothing is in it."""
    columns = columns_of(path)
    mapped = dict(guess(columns) if column_map is None else column_map)
    bad: list[BadLine] = []
    try:
        found = read_conversations(path, column_map=mapped, bad=bad)
    except DataError as error:
        if bad:
            raise DataError(f"{path.name}: nothing in it can be read. Line {bad[0].line}: {bad[0].reason}.") from None
        raise DataError(
            str(error).replace(str(path), path.name)
        ) from None  # the folder is none of a visitor's business
    return Preview(path, columns, mapped, found, bad)


def columns_of(path: Path) -> list[str]:
    """Of a table, or of JSON lines that hold no messages; empty where the file is in a chat form already."""
    try:
        if path.suffix in {".csv", ".tsv"}:
            with path.open(encoding="utf-8-sig", newline="") as file:
                head = file.readline()
            delimiter = "\t" if path.suffix == ".tsv" else (";" if head.count(";") > head.count(",") else ",")
            return next(csv.reader([head], delimiter=delimiter), [])
        first: Any = {}
        if path.suffix == ".jsonl":
            with path.open(encoding="utf-8-sig") as file:
                first = json.loads(next((line for line in file if line.strip()), "{}"))
        return [] if not isinstance(first, dict) or first.keys() & {"messages", "conversations"} else list(first)
    except (UnicodeDecodeError, ValueError):
        return []  # reading it as conversations says what is wrong, with its line


def guess(columns: list[str]) -> dict[str, str]:
    """Where each column probably goes, by the names that such columns usually have."""
    plain = {re.sub(r"[^a-z]+", "_", column.lower()).strip("_"): column for column in columns}
    found: dict[str, str] = {}
    for target, names in USUAL_NAMES.items():
        column = next((plain[name] for name in names if name in plain and plain[name] not in found.values()), None)
        if column is not None:
            found[target] = column
    return found


def split_for_job(preview: Preview, seed: int = 0) -> dict[str, Path]:
    """Job field → file: 80% to train on, 10% to validate, 10% to test, in equal shares of the intents.

    Raises DataError for fewer than 10 conversations.
    """
    n = len(preview.conversations)
    if n < 10:
        raise DataError(f"{preview.path.name}: {n} conversations; a run needs at least 10, and 200 to say something.")
    part = max(1, n // 10)
    parts = split(preview.conversations, {"train": n - 2 * part, "validation": part, "test": part}, seed)
    digest = hashlib.sha256(repr(sorted(preview.column_map.items())).encode()).hexdigest()[:4]
    folder = preview.path.with_suffix("") / digest
    for name, conversations in parts.items():
        write_jsonl(folder / f"{name}.jsonl", conversations)
    return {
        "training_data": folder / "train.jsonl",
        "validation_data": folder / "validation.jsonl",
        "test_data": folder / "test.jsonl",
    }
