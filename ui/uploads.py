"""Conversations that a person brings, as a file or from the Hub: checked, and kept where a process of its own finds them.

Nothing of the upload's name becomes a path: what is kept is called by its content. A visitor's data lies in a folder
of the visitor's own, and no other visitor's job may name it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from distiller.errors import DataError
from distiller.runs import runs_folder
from distiller.sampling import split
from distiller.schema import (
    BadLine,
    Conversation,
    csv_columns,
    read_conversations,
    text_hash,
    to_line,
    write_jsonl,
    write_text,
)
from ui.access import Visitor

MAX_MB = 20
TYPES = (".jsonl", ".json", ".csv", ".tsv")
MAX_CONVERSATIONS = 20_000
#: A line of JSON with one of these names its messages itself.
_CHAT_KEYS = {"messages", "conversations", "prompt"}
#: What a column can hold, and the names by which it is guessed, the likeliest first.
TARGETS: dict[str, tuple[str, ...]] = {
    "user": ("user", "query", "question", "instruction", "customer", "prompt", "utterance", "input", "message", "text"),
    "assistant": ("assistant", "response", "reply", "answer", "agent", "completion", "output", "reference"),
    "intent": ("intent", "topic", "label", "category", "reason"),
    "conversation": ("conversation", "conversation_id", "thread", "ticket", "ticket_id", "dialogue_id", "session"),
}


@dataclass(frozen=True)
class Upload:
    """What was found in a file; `bad`: the lines that are left out."""

    name: str
    conversations: list[Conversation]
    bad: list[BadLine]


def uploads_folder() -> Path:
    return runs_folder() / "uploads"


def folder_of(visitor: Visitor) -> Path:
    return uploads_folder() / visitor.id


def owns(visitor: Visitor, path: Path) -> bool:
    return path.resolve().is_relative_to(folder_of(visitor).resolve())


def columns_of(path: Path) -> list[str]:
    """The columns of a table, or the keys of JSON lines that hold no messages; none for a chat form. Raises DataError."""
    _check(path)
    with _named(path):
        if path.suffix.lower() in {".csv", ".tsv"}:
            return csv_columns(path)
        return [] if path.suffix.lower() == ".json" else _json_keys(path)


def _json_keys(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            first = json.loads(next((line for line in file if line.strip()), "{}"))
    except (OSError, ValueError):
        return []  # reading it as conversations says what is wrong, with its line
    return list(first) if isinstance(first, dict) and not first.keys() & _CHAT_KEYS else []


def guess_columns(columns: Sequence[str]) -> dict[str, str]:
    """Target → the column that probably holds it: by its whole name, else by a word in it."""
    found: dict[str, str] = {}
    for whole in (True, False):
        for target, names in TARGETS.items():
            free = [column for column in columns if column not in found.values()]
            fits = [c for name in names for c in free if name == c.lower() or (not whole and name in _words(c))]
            if target not in found and fits:
                found[target] = fits[0]
    return found


def _words(column: str) -> list[str]:
    return re.findall(r"[a-z]+", column.lower())


def read_upload(path: Path, column_map: Mapping[str, str]) -> Upload:
    """Every conversation that can be read. Raises DataError that names the file as the person knows it."""
    columns = columns_of(path)
    if columns and "user" not in column_map:
        raise DataError(f"{path.name}: say which column holds the customer's message.")
    used = {target: column for target, column in column_map.items() if columns and column}
    if len(set(used.values())) < len(used):
        raise DataError(f"{path.name}: one column stands for two things. Choose a different one for each.")
    bad: list[BadLine] = []
    with _named(path):
        try:
            conversations = read_conversations(path, column_map=used, bad=bad)
        except DataError:
            if not bad:
                raise
            raise DataError(f"{path.name}: no line can be read. Line {bad[0].line}: {bad[0].reason}.") from None
    if len(conversations) > MAX_CONVERSATIONS:
        raise DataError(f"{path.name} holds {len(conversations):,} conversations; at most {MAX_CONVERSATIONS:,}.")
    return Upload(path.name, conversations, bad)


def keep_upload(upload: Upload) -> Path:
    """Writes the conversations as JSONL; the same content is the same file."""
    content = "".join(map(to_line, upload.conversations))
    path = uploads_folder() / f"{_plain(upload.name)}-{text_hash(content)[:12]}.jsonl"
    if not path.exists():
        write_text(path, content)
    return path


def split_upload(upload: Upload, visitor: Visitor, seed: int = 0) -> dict[str, Path]:
    """Field of a job → file: 80% to train on, 10% to validate, 10% to test, in equal shares of the intents.

    Raises DataError for fewer than 10 conversations.
    """
    n = len(upload.conversations)
    if n < 10:
        raise DataError(f"{upload.name}: {n} conversations; a run needs at least 10, and 200 to say something.")
    part = max(1, n // 10)
    parts = split(upload.conversations, {"train": n - 2 * part, "validation": part, "test": part}, seed)
    digest = text_hash(*map(to_line, upload.conversations))[:12]
    folder = folder_of(visitor) / f"{_plain(upload.name)}-{digest}"
    for name, conversations in parts.items():
        write_jsonl(folder / f"{name}.jsonl", conversations)
    return {f"{'training' if name == 'train' else name}_data": folder / f"{name}.jsonl" for name in parts}


def fetch_hub(name: str, config: str, split_name: str, visitor: Visitor) -> Path:
    """The rows of a Hub data set (or a folder of one) as JSONL, at most 20,000. Raises DataError."""
    import datasets as hub

    rows = f"{split_name or 'train'}[:{MAX_CONVERSATIONS}]"
    try:
        found = hub.load_dataset(name, config or None, split=rows)  # type: ignore[attr-defined]
    except Exception as error:  # the library raises what its many loaders raise
        raise DataError(
            f"{name}: cannot be loaded from the Hub ({type(error).__name__}: {error}). "
            "Check the name, the configuration and the split on its page, and whether this machine reaches the Hub."
        ) from None
    text = "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in found)
    path = folder_of(visitor) / f"{_plain(name)}-{text_hash(text)[:12]}.jsonl"
    write_text(path, text)
    return path


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", Path(name).stem).strip("-")[:40] or "conversations"


def _check(path: Path) -> None:
    if path.suffix.lower() not in TYPES:
        raise DataError(f"{path.name}: the file has to be one of {', '.join(TYPES)}.")
    if (size := path.stat().st_size) > MAX_MB * 1_000_000:
        raise DataError(f"{path.name} has {size / 1e6:,.1f} MB; at most {MAX_MB} MB can be read. Upload a part of it.")


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Errors name the file, not the folder that it happens to lie in."""
    try:
        yield
    except DataError as error:
        raise DataError(str(error).replace(str(path), path.name)) from None
