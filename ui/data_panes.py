"""What the Data tab's components show, for one visitor's choices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import gradio as gr

from distiller.curate import BY_HAND, IN_TEST
from distiller.edits import Edit
from ui.data_source import KEPT, Data, Key
from ui.data_view import ALL, DROPPED, Filters, group_of, learnt_text, status_of
from ui.data_words import SPLIT_WORDS, turn_html

PAGE = 25
HEADERS = ("Status", "The customer asks", "Intent")
_CELL_CHARACTERS = 140


@dataclass
class View:
    """What one visitor looks at. Changed in place, never replaced."""

    source: str = ""
    filters: Filters = field(default_factory=Filters)
    page: int = 0
    #: The chosen turn, as its place in the rows of the data.
    place: int | None = None
    #: Typed into the edit box and not saved, by turn.
    drafts: dict[Key, str] = field(default_factory=dict)


def words(text: str, *, wrong: bool = False) -> str:
    """A line of small text; one that says what went wrong is read aloud at once."""
    kind, role = (" wrong", "alert") if wrong else ("", "status")
    return f'<div class="data-words{kind}" role="{role}">{escape(text)}</div>'


def turn_pane(
    view: View,
    data: Data,
    edits: dict[Key, Edit],
    places: list[int],
    owner: bool,
    said: str,
    keep_box: bool,
) -> tuple[Any, ...]:
    count = len(edits)
    train = (
        words(
            f"{count:,} {'edit waits' if count == 1 else 'edits wait'} for a new run." if count else "No edit waits."
        ),
        gr.Button(
            f"Train again with {count:,} {'edit' if count == 1 else 'edits'}" if count else "Train again",
            interactive=count > 0,
        ),
    )
    editing = gr.Column(visible=owner and data.run is not None)
    off = gr.Button(interactive=False)
    if view.place is None:
        return words(""), off, off, "", editing, "", None, off, off, off, off, said, *train
    row, edit = data.rows[view.place], edits.get(data.rows[view.place].key)
    status = status_of(row, edit)
    editable = row.reply is not None and row.status != IN_TEST
    draft = view.drafts.get(row.key)
    if draft is not None and not said:
        said = words("This text is not saved yet.")
    where = f"{row.conversation}, turn {row.turn + 1} of {row.turns} · {SPLIT_WORDS.get(row.split, row.split)} data"
    return (
        words(f"{where} · {row.intent}" if row.intent else where),
        gr.Button(interactive=bool(places) and places[0] < view.place),
        gr.Button(interactive=bool(places) and places[-1] > view.place),
        turn_html(data, view.place, edits),
        editing,
        gr.skip() if keep_box else gr.Textbox(draft or learnt_text(data, row, edit), interactive=editable),
        gr.skip() if keep_box else view.place,
        gr.Button(interactive=editable),
        gr.Button(interactive=editable and status not in {KEPT, BY_HAND["keep"]}),
        gr.Button(interactive=editable and group_of(status) != DROPPED),
        gr.Button(interactive=edit is not None or row.key in data.applied),
        said,
        *train,
    )


def table_pane(data: Data, edits: Mapping[Key, Edit], page: Sequence[int], chosen: int | None) -> dict[str, Any]:
    rows = [data.rows[k] for k in page]
    marks = {KEPT: "✓ ", DROPPED: "✗ "}
    cells = []
    for row in rows:
        status = status_of(row, edits.get(row.key))
        query = row.query if len(row.query) <= _CELL_CHARACTERS else row.query[:_CELL_CHARACTERS].rstrip() + "…"
        cells.append([marks.get(group_of(status), "") + status, query, row.intent])
    # Not "" for the others: the table would leave the last one's colour where it was.
    style = [f"background: {'var(--color-accent-soft)' if k == chosen else 'transparent'}" for k in page]
    return {"headers": list(HEADERS), "data": cells, "metadata": {"styling": [[css] * len(HEADERS) for css in style]}}


def pages(places: Sequence[int]) -> int:
    return max(1, -(-len(places) // PAGE))


def nothing(problem: str = "") -> tuple[Any, ...]:
    """→ `shown` where nothing can be shown."""
    off = gr.Button(interactive=False)
    empty = {"headers": list(HEADERS), "data": [], "metadata": None}
    return (
        empty,
        gr.Radio([("All 0", ALL)], value=ALL),
        words(problem, wrong=bool(problem)),
        off,
        off,
        words(""),
        off,
        off,
        "",
        gr.Column(visible=False),
        "",
        None,
        *[off] * 4,
        "",
        words(""),
        off,
        "",
        "",
    )
