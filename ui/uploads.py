"""A file of conversations that a person uploads: checked, and kept where a process of its own finds it.

Nothing of the upload's name becomes a path: what is kept is called by its content.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from distiller.errors import DataError
from distiller.runs import runs_folder
from distiller.schema import (
    BadLine,
    Conversation,
    csv_columns,
    read_conversations,
    text_hash,
    to_line,
    write_text,
)

MAX_MB = 20
TYPES = (".jsonl", ".json", ".csv", ".tsv")
MAX_CONVERSATIONS = 20_000
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


def columns_of(path: Path) -> list[str]:
    """The columns of a table; none for a file that names its messages itself. Raises DataError."""
    _check(path)
    with _named(path):
        return csv_columns(path) if path.suffix.lower() in {".csv", ".tsv"} else []


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
    plain = re.sub(r"[^A-Za-z0-9]+", "-", Path(upload.name).stem).strip("-")[:40] or "conversations"
    path = uploads_folder() / f"{plain}-{text_hash(content)[:12]}.jsonl"
    if not path.exists():
        write_text(path, content)
    return path


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
