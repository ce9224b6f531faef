"""Other forms of a conversation, made ours: CSV columns, mapped keys, TRL's prompt and completion, ShareGPT.

Plain dictionaries in, plain dictionaries out; `schema.py` validates them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distiller.errors import DataError


def from_columns(row: dict[str, Any], column_map: Mapping[str, str]) -> dict[str, Any]:
    if "user" not in column_map:
        raise ValueError(
            "a CSV needs to know its columns: --map user=COLUMN,assistant=COLUMN "
            f"(columns: {', '.join(map(repr, list(row)[:12]))})"
        )
    value = {target: row[column] for target, column in column_map.items()}
    messages = [
        {"role": role, "content": value.pop(role)}
        for role in ("system", "user", "assistant")
        if value.get(role) not in (None, "")
    ]
    result: dict[str, Any] = {"messages": messages}
    if "id" in value:
        result["id"] = value.pop("id")
    if "conversation" in value:
        result["_thread"] = value.pop("conversation")
    for role in ("system", "user", "assistant"):
        value.pop(role, None)
    return result | {"metadata": value}


def from_chat_form(row: dict[str, Any], column_map: Mapping[str, str]) -> dict[str, Any]:
    """OpenAI, TRL (`prompt` + `completion`) and ShareGPT (`conversations`) lines, and mapped keys."""
    row = dict(row)
    if "user" in column_map:
        return from_columns(row, column_map)
    if "messages" not in row and "conversations" in row:
        row["messages"] = [{"role": m["from"], "content": m["value"]} for m in row.pop("conversations")]
    if "messages" not in row and "prompt" in row:
        parts: list[Any] = []
        for key, role in (("prompt", "user"), ("completion", "assistant")):
            value = row.pop(key, None) or []
            parts += [{"role": role, "content": value}] if isinstance(value, str) else value
        row["messages"] = parts
    if "messages" not in row:
        raise ValueError(f"no key 'messages'; there are: {', '.join(map(repr, list(row)[:8]))}")
    if column_map:
        metadata = dict(row.get("metadata") or {})
        for target, column in column_map.items():
            if target == "id":
                row["id"] = row[column]
            else:
                metadata[target] = row[column]
        row["metadata"] = metadata
    return row


def parse_column_map(text: str) -> dict[str, str]:
    """`user=instruction,assistant=response` → `{"user": "instruction", "assistant": "response"}`."""
    pairs: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        target, separator, column = part.partition("=")
        if not separator or not target.strip() or not column.strip():
            raise DataError(f"--map {part!r}: expected TARGET=COLUMN, for example user=instruction,assistant=response")
        pairs[target.strip()] = column.strip()
    return pairs
