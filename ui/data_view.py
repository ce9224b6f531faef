"""What a visitor sees of a data set: hand edits laid over it, filters, counts, and the rows of a download.

Nothing here knows of Gradio, and nothing is kept: data and choices come in, places and words go out.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distiller.curate import BY_HAND, DROPPED_BY_HAND, IN_TEST
from distiller.edits import WAITING, Edit, latest, read_edits
from distiller.errors import DataError
from distiller.runs import now
from ui.data_source import KEPT, REFERENCE, REPLACED, UNANSWERED, UNCHECKED, Data, Key, Row, keyed, turns_of

#: The status of a turn whose hand edit was taken back: the next run's checks decide.
RECHECK = "to be checked again"
LEARNT = (KEPT, *BY_HAND.values(), REPLACED)
OPEN = (UNCHECKED, UNANSWERED, REFERENCE, RECHECK)
#: Filters that stand for several statuses, beside KEPT, which stands for all that is learnt.
ALL, DROPPED, WAITS = "all", "dropped", "edit waits"


@dataclass(frozen=True)
class Filters:
    """`status`: ALL, a status, KEPT for all that is learnt, DROPPED for all that is not, WAITS. Empty: no filter."""

    status: str = ALL
    intent: str = ""
    split: str = ""
    text: str = ""


# Hand edits


def edits_file(data: Data) -> Path:
    """Where the edits of this run wait. Raises DataError for data that cannot be edited."""
    if data.run is None:
        raise DataError("These are references alone; only the replies of a run can be edited.")
    return data.run.path(*WAITING)


def waiting(data: Data) -> dict[Key, Edit]:
    """The last edit of each turn that the run was not made with. Raises DataError."""
    if data.run is None or not edits_file(data).exists():
        return {}
    found = keyed(latest(read_edits(edits_file(data)), turns_of(data.rows)))
    return {key: edit for key, edit in found.items() if _effect(edit) != _effect(data.applied.get(key))}


def _effect(edit: Edit | None) -> tuple[str, str | None]:
    return (edit.action, edit.reply) if edit else ("undo", None)


def taken_back(data: Data, row: Row, edit: Edit | None) -> Edit:
    """The edit that undoes: one that waits, else the one that the run was made with."""
    before = data.applied.get(row.key)
    if edit is not None and before is not None:
        return before.model_copy(update={"time": now()})
    return Edit(split=row.split, conversation=row.conversation, turn=row.turn, action="undo")  # type: ignore[arg-type]


def status_of(row: Row, edit: Edit | None) -> str:
    """What becomes of the turn in the next run, as far as it is known now; `edit` waits."""
    if edit is None or row.status == IN_TEST:
        return row.status
    if edit.action == "undo":
        return RECHECK
    return BY_HAND.get(edit.action, DROPPED_BY_HAND)


def learnt_text(data: Data, row: Row, edit: Edit | None) -> str:
    """The text that stands for the turn: an edited reply, the reference in its place, or the teacher's own."""
    chosen = edit or data.applied.get(row.key)
    if chosen is not None and chosen.reply is not None and row.status != IN_TEST:
        return chosen.reply
    if status_of(row, edit) == REPLACED:
        return row.reference or ""
    return row.reply or ""


# Filters


def group_of(status: str) -> str:
    """KEPT, DROPPED, or the status itself where nothing is decided yet."""
    return KEPT if status in LEARNT else status if status in OPEN else DROPPED


def _matches(row: Row, filters: Filters, needle: str) -> bool:
    if (filters.intent and row.intent != filters.intent) or (filters.split and row.split != filters.split):
        return False
    return not needle or any(
        needle in text.lower() for text in (row.query, row.reply or "", row.reference or "", row.conversation)
    )


def _has_status(status: str, waits: bool, wanted: str) -> bool:
    return wanted == ALL or wanted in {status, group_of(status)} or (wanted == WAITS and waits)


def select(data: Data, edits: Mapping[Key, Edit], filters: Filters) -> tuple[list[int], dict[str, int]]:
    """The places in `data.rows` that pass the filters; and, by status, how many pass all of them but the status's.

    A status that the data has is counted even where none passes, so that the choices stay the same.
    """
    needle = filters.text.strip().lower()
    places: list[int] = []
    counts: Counter[str] = Counter()
    for place, row in enumerate(data.rows):
        edit = edits.get(row.key)
        status = status_of(row, edit) if edits else row.status
        passes = _matches(row, filters, needle)
        counts[status] += passes
        if edit is not None:
            counts[WAITS] += passes
        if passes and _has_status(status, edit is not None, filters.status):
            places.append(place)
    return places, dict(counts)


def status_choices(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """(filter, turns): all, all that is kept, all that is dropped, then each reason, the commonest first."""
    single = {status: n for status, n in counts.items() if status != WAITS}
    groups: Counter[str] = Counter()
    for status, n in single.items():
        groups[group_of(status)] += n
    choices = [(ALL, sum(single.values()))] + [(g, groups[g]) for g in (KEPT, DROPPED, *OPEN) if g in groups]
    named = {choice for choice, _ in choices}
    # KEPT as a filter is all that is learnt; the statuses within it are told apart where there are several.
    choices += sorted(((s, n) for s, n in single.items() if s not in named), key=lambda c: (-c[1], c[0]))
    return choices + [(WAITS, counts.get(WAITS, 0))] * (WAITS in counts)


def lengths(data: Data) -> dict[str, list[int]]:
    """Words of each customer's question, teacher's reply and reference that there is."""
    texts = {
        "Questions": [row.query for row in data.rows],
        "Teacher's replies": [row.reply for row in data.rows if row.reply is not None],
        "References": [row.reference for row in data.rows if row.reference],
    }
    return {name: [len((text or "").split()) for text in found] for name, found in texts.items() if found}


def record(data: Data, row: Row, edit: Edit | None) -> dict[str, Any]:
    """One line of a download."""
    return {
        "conversation": row.conversation,
        "turn": row.turn,
        "split": row.split,
        "intent": row.intent,
        "status": status_of(row, edit),
        "query": row.query,
        "reply": row.reply,
        "learnt": learnt_text(data, row, edit) if group_of(status_of(row, edit)) == KEPT else None,
        "reference": row.reference,
        "facts": [list(fact) for fact in row.facts],
        "policy": row.policy,
    }


def to_csv(records: Sequence[Mapping[str, Any]]) -> str:
    """The records as a table that a spreadsheet opens. A text that it would take for a formula gets a ' before it;
    lists are JSON."""
    file = io.StringIO()
    writer = csv.writer(file)
    for number, found in enumerate(records):
        if number == 0:
            writer.writerow(found)
        writer.writerow([_cell(value) for value in found.values()])
    return file.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        return json.dumps(value, ensure_ascii=False)
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
