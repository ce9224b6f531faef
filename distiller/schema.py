"""Conversations and completions, and their JSONL form.

A line is the OpenAI / TRL / Azure chat form: `{"id", "messages": [{"role", "content"}], "metadata"}`.
Assistant messages of an input file are references. `metadata.facts[t]` lists what a correct reply to
turn t must state, each fact as a list of alternatives; `metadata.forbidden[t]` what it must not.
Unknown keys survive a round trip. A bad line is reported with file, line number and reason.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TextIO

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from distiller.errors import DataError
from distiller.forms import from_chat_form, from_columns

Role = Literal["system", "user", "assistant", "tool"]
_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "agent": "assistant", "customer": "user"}
_ROLES |= {"developer": "system", "function": "tool"}
MAX_LINE_BYTES = 4_000_000


class Message(BaseModel):
    model_config = ConfigDict(extra="allow")
    role: Role
    content: str

    @field_validator("role", mode="before")
    @classmethod
    def _known_role(cls, value: Any) -> Any:
        return _ROLES.get(value, value) if isinstance(value, str) else value

    @field_validator("content", mode="before")
    @classmethod
    def _text_of_parts(cls, value: Any) -> Any:
        """OpenAI allows a list of parts; its text parts are the content. Null stands beside tool calls."""
        if value is None:
            return ""
        if isinstance(value, str) and not value.isascii():
            # Half of a surrogate pair is no text, and could not be written again.
            value.encode("utf-8")
        if isinstance(value, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in value):
            return "".join(part.get("text", "") for part in value)
        return value


class Conversation(BaseModel):
    model_config = ConfigDict(extra="allow")
    id: str = Field(min_length=1)
    messages: list[Message] = Field(min_length=1)
    metadata: dict[str, Any] = Field(default_factory=dict)

    @field_validator("id", mode="before")
    @classmethod
    def _id_as_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) else value

    @property
    def intent(self) -> str | None:
        """The intent, where the data names one (a one-element list counts)."""
        value = self.metadata.get("intent")
        if isinstance(value, list):
            value = value[0] if value else None
        return value if isinstance(value, str) and value else None

    @field_validator("metadata")
    @classmethod
    def _facts_by_turn(cls, value: dict[str, Any]) -> dict[str, Any]:
        for key in ("facts", "forbidden"):
            by_turn = value.get(key)
            if by_turn is not None and not _is_list_of(
                by_turn, lambda t: t is None or _is_list_of(t, _is_alternatives)
            ):
                raise ValueError(
                    f"{key}: expected a list of facts for each assistant turn, a fact being a list of alternatives: "
                    '[[["30 days", "thirty days"]], []]'
                )
        return value

    def turns(self) -> list[Turn]:
        """The places where the assistant has to speak.

        A turn gathers what came since the last reply (user and tool messages) and the reference reply.
        Several assistant messages in a row are one reference. Where a conversation holds no assistant
        message at all, every user message is a turn of its own.
        """
        has_references = any(message.role == "assistant" for message in self.messages)
        facts, forbidden = self.metadata.get("facts") or [], self.metadata.get("forbidden") or []
        turns: list[Turn] = []
        context: list[Message] = []
        replies: list[str] = []

        def close() -> None:
            t = len(turns)
            turns.append(
                Turn(
                    index=t,
                    context=tuple(context),
                    reference="\n".join(replies) if replies else None,
                    facts=tuple(map(tuple, facts[t])) if t < len(facts) and facts[t] else (),
                    forbidden=tuple(map(tuple, forbidden[t])) if t < len(forbidden) and forbidden[t] else (),
                )
            )
            context.clear()
            replies.clear()

        for message in self.messages:
            if message.role == "system":
                continue
            if message.role == "assistant":
                if turns or any(m.role == "user" for m in context):
                    replies.append(message.content)
                else:  # a greeting before the customer has spoken is history, not a turn
                    context.append(message)
                continue
            if replies or (not has_references and context and message.role == "user"):
                close()
            context.append(message)
        if replies or any(m.role == "user" for m in context):
            close()
        return turns

    @property
    def system(self) -> str | None:
        return next((message.content for message in self.messages if message.role == "system"), None)


@dataclass(frozen=True)
class Turn:
    """One place where the assistant has to speak. `facts` and `forbidden`: tuples of alternatives."""

    index: int
    context: tuple[Message, ...]
    reference: str | None
    facts: tuple[tuple[str, ...], ...] = ()
    forbidden: tuple[tuple[str, ...], ...] = ()

    @property
    def query(self) -> str:
        """What the customer said in this turn."""
        return "\n".join(message.content for message in self.context if message.role == "user")


def history(turns: Sequence[Turn], replies: Sequence[str], upto: int, system: str | None) -> list[Message]:
    """The messages a model sees before it answers turn `upto`; `replies[:upto]` stand for the earlier ones."""
    messages = [Message(role="system", content=system)] if system else []
    for turn in turns[: upto + 1]:
        messages.extend(turn.context)
        if turn.index < upto:
            messages.append(Message(role="assistant", content=replies[turn.index]))
    return messages


class Completion(BaseModel):
    """What a model said. Times in seconds, from the moment the request was sent."""

    text: str
    finish_reason: Literal["stop", "length", "content_filter", "other"] = "stop"
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    ttft_s: float | None = None
    latency_s: float | None = None
    #: For each generated token the k most likely ones: [(token, log-probability), ...], best first.
    top_logprobs: list[list[tuple[str, float]]] | None = None


class Prediction(BaseModel):
    """A completion to be scored: which conversation and turn it answers."""

    conversation: str
    turn: int
    completion: Completion


@dataclass(frozen=True)
class BadLine:
    file: Path
    line: int
    reason: str
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


def read_conversations(
    path: Path, *, column_map: Mapping[str, str] | None = None, bad: list[BadLine] | None = None
) -> list[Conversation]:
    """Reads a `.jsonl`, `.json` or `.csv` file of conversations.

    `column_map` names where a CSV column or a JSON key goes: `{"user": "instruction", "assistant":
    "response"}`; its targets are user, assistant, system, id, conversation (rows that share its value
    are one conversation, in file order) and any key of the metadata.
    Bad lines are appended to `bad`; where that is None the first ones make a DataError.
    """
    found: list[BadLine] = []
    with _reading(path):
        rows = _csv_rows(path) if path.suffix.lower() in {".csv", ".tsv"} else _json_rows(path, found)
        conversations = list(_conversations(path, rows, column_map or {}, found))
    if bad is not None:
        bad.extend(found)
    elif found:
        shown = "\n  ".join(str(line) for line in found[:5])
        more = f"\n  ... and {len(found) - 5} more" if len(found) > 5 else ""
        raise DataError(
            f"{path}: {len(found)} of {len(found) + len(conversations)} entries cannot be read:\n  {shown}{more}\n"
            "Mend them, or go on without them with --skip-bad (they are kept in quarantine.jsonl)."
        )
    if not conversations:
        raise DataError(f"{path}: holds no conversation.")
    return conversations


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}). Check the path.") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}. Save it as UTF-8.") from None
    except csv.Error as error:
        raise DataError(f"{path}: not a CSV file that can be read: {error}") from None


def _json_rows(path: Path, bad: list[BadLine]) -> Iterator[tuple[int, str, Any]]:
    if path.suffix.lower() == ".json":
        text = path.read_text(encoding="utf-8-sig")
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}:{error.lineno}: not JSON: {error.msg}") from None
        for number, row in enumerate(value if isinstance(value, list) else [value], start=1):
            yield number, json.dumps(row, ensure_ascii=False)[:2000], row
        return
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            line = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
            if not line.strip():
                continue
            shown = line[:2000].decode("utf-8", "replace").rstrip("\n")
            if len(line) > MAX_LINE_BYTES:
                bad.append(BadLine(path, number, f"{len(line):,} bytes; at most {MAX_LINE_BYTES:,}", shown))
                continue
            try:
                yield number, line.decode("utf-8").rstrip("\n"), json.loads(line)
            except UnicodeDecodeError as error:
                bad.append(BadLine(path, number, f"not UTF-8 at byte {error.start}", shown))
            except json.JSONDecodeError as error:
                bad.append(BadLine(path, number, f"not JSON: {error.msg} at column {error.colno}", shown))
            except (ValueError, RecursionError) as error:  # numbers too long, nesting too deep
                bad.append(BadLine(path, number, f"not JSON that can be read: {error}", shown))


def _csv_rows(path: Path) -> Iterator[tuple[int, str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = _csv_reader(path, file)
        for row in reader:
            yield reader.line_num, json.dumps(row, ensure_ascii=False)[:2000], row


def _csv_reader(path: Path, file: TextIO) -> csv.DictReader[str]:
    sample = file.read(64_000)
    file.seek(0)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else (";" if sample.count(";") > sample.count(",") else ",")
    return csv.DictReader(file, delimiter=delimiter)


def csv_columns(path: Path) -> list[str]:
    """The names in the first line of a `.csv` or `.tsv` file. Raises DataError."""
    with _reading(path), path.open(encoding="utf-8-sig", newline="") as file:
        columns = [name for name in _csv_reader(path, file).fieldnames or [] if name]
    if not columns:
        raise DataError(f"{path}: its first line names no columns.")
    return columns


def _conversations(
    path: Path, rows: Iterable[tuple[int, str, Any]], column_map: Mapping[str, str], bad: list[BadLine]
) -> Iterator[Conversation]:
    is_csv = path.suffix.lower() in {".csv", ".tsv"}
    seen: dict[str, int] = {}
    threads: dict[str, Conversation] = {}
    for number, text, row in rows:
        try:
            if not isinstance(row, dict):
                raise ValueError(f"expected an object, found {type(row).__name__}")
            if missing := [c for c in column_map.values() if c not in row]:
                raise ValueError(f"no column {missing[0]!r}; there are: {', '.join(map(repr, list(row)[:12]))}")
            value = from_columns(row, column_map) if is_csv else from_chat_form(row, column_map)
            thread = value.pop("_thread", None) or None
            value.setdefault("id", thread or f"{path.stem}-{number:06d}")
            conversation = Conversation.model_validate(value)
            if not any(message.role == "user" for message in conversation.messages):
                raise ValueError("no message of the user")
            if thread is not None and thread in threads:
                threads[thread].messages.extend(m for m in conversation.messages if m.role != "system")
                continue
            if conversation.id in seen:
                raise ValueError(f"id {conversation.id!r} stands already in line {seen[conversation.id]}")
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            bad.append(BadLine(path, number, f"{where}: {first['msg']}", text))
            continue
        except (ValueError, KeyError, TypeError) as error:
            reason = f"key {error} is missing" if isinstance(error, KeyError) else str(error)
            bad.append(BadLine(path, number, reason, text))
            continue
        seen[conversation.id] = number
        if thread is not None:
            threads[thread] = conversation
        else:
            yield conversation
    yield from threads.values()


def to_line(record: BaseModel | Mapping[str, Any]) -> str:
    value = record.model_dump(mode="json") if isinstance(record, BaseModel) else record
    return json.dumps(value, ensure_ascii=False) + "\n"


def _is_list_of(value: Any, holds: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(map(holds, value))


def _is_alternatives(value: Any) -> bool:
    return _is_list_of(value, lambda text: isinstance(text, str)) and bool(value)


def write_jsonl(path: Path, records: Iterable[BaseModel | Mapping[str, Any]]) -> None:
    """Writes a whole file or none: a reader never sees half of it."""
    write_text(path, "".join(map(to_line, records)))


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """A file this program wrote. A torn last line (the process was killed while it wrote) is left out."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    return [json.loads(line) for line in lines[:-1] if line.strip()]


def drop_torn_line(path: Path) -> None:
    """Cuts a last line that a killed process left unfinished, so that appending goes on cleanly."""
    if path.exists():
        content = path.read_bytes()
        if content and not content.endswith(b"\n"):
            with path.open("rb+") as file:
                file.truncate(content.rfind(b"\n") + 1)


def text_hash(*parts: str) -> str:
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()
