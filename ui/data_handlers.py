"""What each event of the Data tab does. A visitor's choices are in their own `View`; the data, which nobody changes,
is shared. Every handler that shows the page answers with the same components, in the order of `data_tab`'s `shown`.
"""

from __future__ import annotations

import bisect
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.processing_utils import save_file_to_cache
from gradio.utils import get_upload_folder

from distiller.curate import IN_TEST
from distiller.edits import Edit, again, append_edit, read_edits
from distiller.errors import DataError, DistillerError
from distiller.job import DistillationJob
from distiller.schema import to_line
from ui.access import RateLimit, require_owner, visible_runs, visitor_of
from ui.data_charts import intent_chart, length_chart, reason_chart
from ui.data_panes import PAGE, View, nothing, pages, table_pane, turn_pane, words
from ui.data_source import KEPT, Data, DataCache, Key, Row, sources
from ui.data_view import (
    ALL,
    DROPPED,
    WAITS,
    Filters,
    edits_file,
    group_of,
    learnt_text,
    record,
    select,
    status_choices,
    status_of,
    taken_back,
    to_csv,
    waiting,
)
from ui.data_words import SPLIT_WORDS

MAX_CHARACTERS = 8_000
#: What stands in the edit box, and the place of the turn that it belongs to: the chosen one may be another by now.
Typed = tuple[str, int | None]
_NAMES = {ALL: "All", KEPT: "Kept", DROPPED: "Dropped", WAITS: "Edit waits"}


@dataclass
class Desk:
    """What all visitors share: how a run is started, what was read, and how often one may download."""

    start: Callable[[DistillationJob], str]
    cache: DataCache = field(default_factory=DataCache)
    downloads: RateLimit = field(default_factory=lambda: RateLimit("downloads", 10))

    # Opening a source

    def arrive(self, view: View, request: gr.Request) -> tuple[Any, ...]:
        """→ `opened`: the newest run, or the first data set where there is none."""
        offered = _offered(request)
        return self.pick(view, offered[0][1] if offered else "", request)

    def pick(self, view: View, source: str, request: gr.Request) -> tuple[Any, ...]:
        """→ `opened`. Nobody makes the server read what is not offered."""
        offered = source in [value for _, value in _offered(request)]
        view.source = source if offered else ""
        view.filters, view.page, view.place, view.drafts = Filters(), 0, None, {}
        return self._open(view, None, request)

    def refresh(self, view: View, box: str, at: int | None, source: str, request: gr.Request) -> tuple[Any, ...]:
        """→ `opened`, the files read again; what was chosen stays."""
        return self._open(view, (box, at), request) if source == view.source else self.pick(view, source, request)

    def _open(self, view: View, typed: Typed | None, request: gr.Request) -> tuple[Any, ...]:
        picker = gr.Dropdown(choices=_offered(request), value=view.source or None)
        try:
            data = self._data(view, fresh=True)
        except DistillerError as error:
            blank = [gr.skip()] * 3 + [gr.Plot(visible=False)] * 3
            return picker, words(str(error), wrong=True), *blank, *nothing()
        intents = Counter(row.intent for row in data.rows if row.intent)
        parts = Counter(row.split for row in data.rows)
        figures = [length_chart(data), reason_chart(data), intent_chart(data)] if data.rows else [None] * 3
        return (
            picker,
            words(note) if (note := data.note or self._hint(data, request)) else "",
            gr.Dropdown(
                choices=[("All data", ""), *((f"{SPLIT_WORDS[s]} data ({n:,})", s) for s, n in parts.items())],
                value=view.filters.split,
            ),
            gr.Dropdown(
                choices=[("All intents", ""), *((f"{name} ({n:,})", name) for name, n in sorted(intents.items()))],
                value=view.filters.intent,
            ),
            view.filters.text,
            *(gr.Plot(figure, visible=figure is not None) for figure in figures),
            *self._show(view, typed, request, opened=True, first=view.place is None),
        )

    def _hint(self, data: Data, request: gr.Request) -> str:
        if data.run is None or visitor_of(request).owner:
            return ""
        return "The owner of this page can edit these replies. Run your own copy to edit yours: the code is all there."

    def _data(self, view: View, *, fresh: bool = False) -> Data:
        if not view.source:
            raise DataError("What you looked at is not offered here any more. Pick a run or a data set at the top.")
        return self.cache.get(view.source, fresh=fresh)

    # Moving about

    def filtered(
        self, view: View, box: str, at: int | None, status: str, split: str, intent: str, text: str, request: gr.Request
    ) -> tuple[Any, ...]:
        view.filters, view.page = Filters(status, intent, split, text), 0
        return self._show(view, (box, at), request, first=True)

    def turn_page(self, view: View, box: str, at: int | None, step: int, request: gr.Request) -> tuple[Any, ...]:
        """The next page (`step` 1) or the one before (-1), and its first turn."""

        def move(places: list[int]) -> None:
            view.page = max(0, min(view.page + step, pages(places) - 1))
            view.place = places[view.page * PAGE] if places else None

        return self._show(view, (box, at), request, move)

    def turn_on(self, view: View, box: str, at: int | None, step: int, request: gr.Request) -> tuple[Any, ...]:
        """The next turn of those shown, or the one before. The chosen one may have left them: an edit can do that."""

        def move(places: list[int]) -> None:
            here = view.place if view.place is not None else -1
            k = bisect.bisect_right(places, here) if step > 0 else bisect.bisect_left(places, here) - 1
            if 0 <= k < len(places):
                view.place, view.page = places[k], k // PAGE

        return self._show(view, (box, at), request, move)

    def choose(
        self, view: View, box: str, at: int | None, chosen: gr.SelectData, request: gr.Request
    ) -> tuple[Any, ...]:
        """The turn of the table's row that was clicked, or reached with the arrow keys."""

        def move(places: list[int]) -> None:
            k = view.page * PAGE + int(chosen.index[0])
            if 0 <= k < len(places):
                view.place = places[k]

        return self._show(view, (box, at), request, move)

    # Editing

    def edit(self, view: View, box: str, at: int | None, action: str, request: gr.Request) -> tuple[Any, ...]:
        """Adds one edit to the run's file. What is wrong is said beside the box, whose text stays."""
        try:
            require_owner(request, "Editing the data")
            data = self._data(view)
            row = _editable(data, at)
            made = _made(data, row, waiting(data).get(row.key), action, box)
            append_edit(edits_file(data), made)
        except DistillerError as error:
            return self._show(view, (box, at), request, said=words(str(error), wrong=True), keep_box=True)
        view.place = at
        view.drafts.pop(row.key, None)
        done = {"replace": "Saved.", "keep": "Kept.", "drop": "Dropped.", "undo": "Undone."}[action]
        return self._show(view, None, request, said=words(f"{done} It counts when you train again."))

    def train_again(self, view: View, request: gr.Request) -> tuple[Any, ...]:
        """→ the picker, the line under the button. Starts the run of the same job with the edits that wait."""
        try:
            require_owner(request, "Editing the data")
            data = self._data(view)
            if data.run is None or not waiting(data):
                raise DataError("No edit waits. Save, keep or drop a reply first.")
            name = self.start(again(data.run, read_edits(edits_file(data))))
        except DistillerError as error:
            return gr.skip(), words(str(error), wrong=True)
        said = f"Run {name} has started. It asks the teacher nothing anew. Pick it at the top to follow it; Refresh reads on."
        return gr.Dropdown(choices=_offered(request), value=view.source), words(said)

    # Downloads

    def download(self, view: View, kind: str, request: gr.Request) -> tuple[Any, ...]:
        """→ the hidden button with its file (with none, pressing it does nothing), the line beneath."""
        try:
            self.downloads.check(visitor_of(request))
            data = self._data(view)
            edits = waiting(data)
            places, _ = select(data, edits, view.filters)
            if not places:
                raise DataError("No row is shown. Loosen the filters first.")
        except DistillerError as error:
            return None, words(str(error), wrong=True)
        records = [record(data, data.rows[k], edits.get(data.rows[k].key)) for k in places]
        content = to_csv(records) if kind == "csv" else "".join(map(to_line, records))
        name = view.source.partition(":")[2].replace("/", "-")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{name}.{kind}"
            path.write_text(content, encoding="utf-8", newline="")
            cached = save_file_to_cache(path, get_upload_folder())
        return cached, words(f"{name}.{kind}: {len(records):,} rows.")

    # Showing

    def _show(
        self,
        view: View,
        typed: Typed | None,
        request: gr.Request,
        move: Callable[[list[int]], None] | None = None,
        *,
        opened: bool = False,
        first: bool = False,
        said: str = "",
        keep_box: bool = False,
    ) -> tuple[Any, ...]:
        """→ `shown`. `typed` is kept as a draft where it is not saved. `move` changes the view, given the places shown;
        `first` goes to the first turn shown where the chosen one is not among them. The filter by status is set where
        it was `opened` or has to change, and only then: an answer on its way would take back what was chosen meanwhile."""
        owner = visitor_of(request).owner
        try:
            data = self._data(view)
            edits = waiting(data)
        except DistillerError as error:
            return nothing(str(error))
        places, counts = select(data, edits, view.filters)
        choices = status_choices(counts)
        gone = view.filters.status not in dict(choices)  # the last turn of this status was edited
        if gone:
            view.filters = replace(view.filters, status=ALL)
            places, counts = select(data, edits, view.filters)
        if typed is not None and owner:
            _keep_draft(view, data, edits, *typed)
        if move:
            move(places)
        if first and (view.place is None or view.place not in places):
            view.place = places[0] if places else None
        view.page = max(0, min(view.page, pages(places) - 1))
        named = [(f"{_NAMES.get(s, s)} {n:,}", s) for s, n in choices]
        radio = gr.Radio(named, value=view.filters.status) if opened or gone else gr.Radio(named)
        start = view.page * PAGE
        page = places[start : start + PAGE]
        span = (
            f"{start + 1:,} to {start + len(page):,} of {len(places):,} turns"
            if page
            else "No turn passes the filters."
        )
        return (
            table_pane(data, edits, page, view.place),
            radio,
            words(span),
            gr.Button(interactive=view.page > 0),
            gr.Button(interactive=view.page + 1 < pages(places)),
            *turn_pane(view, data, edits, places, owner, said, keep_box),
            "",
            "",
        )


def _offered(request: gr.Request) -> list[tuple[str, str]]:
    visitor = visitor_of(request)
    return sources(visible_runs(visitor), unfinished=visitor.owner)


def _editable(data: Data, at: int | None) -> Row:
    if at is None or not 0 <= at < len(data.rows):
        raise DataError("Choose a turn first.")
    row = data.rows[at]
    if row.reply is None:
        raise DataError("There is no reply of a teacher here to edit.")
    if row.status == IN_TEST:
        raise DataError("This conversation is in the test data too. It is never learnt, so there is nothing to edit.")
    return row


def _made(data: Data, row: Row, before: Edit | None, action: Any, box: str) -> Edit:
    typed = box.strip()
    if action == "undo":
        return taken_back(data, row, before)
    if action == "replace":
        if not typed:
            raise DataError("Type the reply to learn first. To learn nothing from this turn, press Drop.")
        if len(typed) > MAX_CHARACTERS:
            raise DataError(f"The reply has {len(typed):,} characters; at most {MAX_CHARACTERS:,} fit. Shorten it.")
        if typed == learnt_text(data, row, before).strip() and group_of(status_of(row, before)) == KEPT:
            raise DataError("This is the reply that is learnt already. Change it, then save.")
        if typed == (row.reply or "").strip():
            action = "keep"
    place = {"split": row.split, "conversation": row.conversation, "turn": row.turn}
    return Edit.model_validate(place | {"action": action, "reply": typed if action == "replace" else None})


def _keep_draft(view: View, data: Data, edits: Mapping[Key, Edit], box: str, at: int | None) -> None:
    if at is None or not 0 <= at < len(data.rows) or data.rows[at].reply is None:
        return
    row = data.rows[at]
    if box.strip() in {"", learnt_text(data, row, edits.get(row.key)).strip()}:
        view.drafts.pop(row.key, None)
    else:
        view.drafts[row.key] = box
