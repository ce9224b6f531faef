"""Evaluation: the reports of models on the same conversations, and a form that starts another.

One picker lists what is finished and what is under way; what is picked is shown below it. Evaluations are
processes of their own, so the page only watches them: it can be closed, and a timer polls only while one works.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from distiller.errors import DistillerError
from distiller.schema import write_text
from distiller.watch import Watch
from distiller.work import stop_work
from evals.background import start_evaluation
from evals.charts import charts
from ui.access import require_owner, visitor_of
from ui.evaluation_browser import Browser, Updates, build_browser
from ui.evaluation_form import WHAT, Form, asked_of, build_form
from ui.evaluation_html import (
    alert_html,
    elsewhere_html,
    empty_html,
    summary_html,
    table_html,
    work_html,
)
from ui.evaluation_style import CSS
from ui.evaluation_view import (
    UNDER_WAY,
    Entry,
    Shelf,
    find_report,
    list_reports,
    request_of,
    table_csv,
    turns_csv,
    why_it_ended,
)

__all__ = ["CSS", "build_evaluation_tab"]
POLL_S = 1.5
MAX_CHARTS = 5
DOWNLOADS = {
    "table.csv": "Table, CSV",
    "turns.csv": "Replies, CSV",
    "report.json": "All, JSON",
    "report.html": "All, HTML",
}
_SAVE = "() => setTimeout(() => document.querySelector('#evaluation-saved')?.click(), 50)"


@dataclass(frozen=True)
class Tab:
    """The components, and what they show of the reports on the shelf."""

    shelf: Shelf
    picker: gr.Dropdown
    notice: gr.HTML
    work: gr.HTML
    actions: gr.Row
    stop: gr.Button
    go_on: gr.Button
    report: gr.Column
    summary: gr.HTML
    table: gr.HTML
    plots: list[gr.Plot]
    browser: Browser
    saved: gr.DownloadButton
    form: Form
    timer: gr.Timer
    listed: gr.State

    def chosen(self, identity: str | None, owner: bool, *, and_list: bool = False) -> Updates:
        """What is picked, or why it cannot be shown. `and_list`: the picker's choices as well."""
        entries = list_reports(self.shelf, owner=owner)
        entry = next((entry for entry in entries if entry.id == identity), None)
        updates: Updates = self.listing(entries, identity) if and_list else {}
        hidden: Updates = {self.report: gr.Column(visible=False)}
        if entry is None:
            words = (
                ""
                if identity is None
                else alert_html(f"There is no report {identity!r} here any more. Pick another one.")
            )
            empty = "" if entries else empty_html(owner)
            return updates | hidden | {self.notice: words, self.work: empty, self.actions: gr.Row(visible=False)}
        if entry.state != "complete":
            return updates | hidden | {self.notice: ""} | self.progress(entry, entries)
        try:
            report = self.shelf.read(entry)
        except DistillerError as error:
            return (
                updates
                | hidden
                | {self.notice: alert_html(str(error)), self.work: "", self.actions: gr.Row(visible=False)}
            )
        # The last place is the wide one, for the heat map.
        *narrow, wide = charts(report) or [None]
        figures = [*narrow, *[None] * (len(self.plots) - 1 - len(narrow)), wide]
        plots = [gr.Plot(figure, visible=figure is not None) for figure in figures]
        return (
            updates
            | {self.notice: "", self.report: gr.Column(visible=True)}
            | self.progress(entry, entries)
            | {self.summary: summary_html(report), self.table: table_html(report)}
            | dict(zip(self.plots, plots, strict=True))
            | self.browser.opened(report)
        )

    def listing(self, entries: Sequence[Entry], identity: str | None) -> Updates:
        return {
            self.picker: gr.Dropdown(choices=[(entry.label, entry.id) for entry in entries], value=identity),
            self.listed: [entry.label for entry in entries],
            self.timer: gr.Timer(active=any(entry.state in UNDER_WAY for entry in entries)),
        }

    def progress(self, entry: Entry, entries: Sequence[Entry]) -> Updates:
        """How far the picked one is, or one line about the others while a report is read."""
        others = [other for other in entries if other.state in UNDER_WAY and other.id != entry.id]
        if entry.state == "complete":
            return {self.work: elsewhere_html(others), self.actions: gr.Row(visible=False)}
        watch, works = Watch(entry.folder).refresh(), entry.state in UNDER_WAY
        reason = "" if works else why_it_ended(entry.folder, watch)
        shown = work_html(entry, watch, request_of(entry.folder).get("models", []), reason) + elsewhere_html(others)
        return {
            self.work: shown,
            self.actions: gr.Row(visible=True),
            self.stop: gr.Button(visible=works),
            self.go_on: gr.Button(visible=not works),
        }

    # What a visitor does.

    def arrive(self, request: gr.Request) -> Updates:
        """The newest of what there is: an evaluation under way shows up again after the page was closed."""
        owner = visitor_of(request).owner
        entries = list_reports(self.shelf, owner=owner)
        first = entries[0].id if entries else None
        form = {self.form.box: gr.Accordion(visible=owner), **(self.form.offer(choose=True) if owner else {})}
        return self.chosen(first, owner, and_list=True) | form

    def pick(self, request: gr.Request, identity: str | None) -> Updates:
        return self.chosen(identity, visitor_of(request).owner)

    def refresh(self, request: gr.Request, identity: str | None) -> Updates:
        """The list anew. What is being read stays as it is."""
        owner = visitor_of(request).owner
        entries = list_reports(self.shelf, owner=owner)
        if any(entry.id == identity for entry in entries):
            return self.listing(entries, identity) | (self.form.offer(choose=False) if owner else {})
        return self.arrive(request)

    def tick(self, request: gr.Request, identity: str | None, listed: list[str]) -> Updates:
        """Only what has changed is sent, so that nothing moves under the hand."""
        owner = visitor_of(request).owner
        entries = list_reports(self.shelf, owner=owner)
        labels = [entry.label for entry in entries]
        entry = next((entry for entry in entries if entry.id == identity), None)
        if labels != listed and entry is not None and entry.state == "complete" and entry.label not in listed:
            return self.chosen(identity, owner, and_list=True)  # the one that was watched has its report now
        updates = self.progress(entry, entries) if entry else {}
        return updates | (self.listing(entries, identity) if labels != listed else {})

    def start(self, request: gr.Request, *values: Any) -> Updates:
        try:
            require_owner(request, WHAT)
            asked = asked_of(values)
            folder = start_evaluation(asked.models, asked.data, asked.options)
        except DistillerError as error:
            return {self.form.notice: alert_html(str(error))}
        opened = self.chosen(f"evaluations/{folder.name}", True, and_list=True)
        return opened | {self.form.notice: "", self.form.box: gr.Accordion(open=False)}

    def end(self, request: gr.Request, identity: str | None) -> Updates:
        try:
            require_owner(request, "Stopping an evaluation")
            stop_work(find_report(self.shelf, identity, owner=True).folder)
        except DistillerError as error:
            return {self.notice: alert_html(str(error))}
        return self.chosen(identity, True, and_list=True) | {
            self.stop: gr.Button("Stop", interactive=True, visible=False)
        }

    def resume(self, request: gr.Request, identity: str | None) -> Updates:
        try:
            require_owner(request, WHAT)
            asked = request_of(find_report(self.shelf, identity, owner=True).folder)
            start_evaluation(asked.get("models", []), Path(asked.get("data", "")), asked.get("options", []))
        except DistillerError as error:
            return {self.notice: alert_html(str(error))}
        return self.chosen(identity, True, and_list=True)

    def earlier(self, request: gr.Request, identity: str | None, place: int, *values: Any) -> Updates:
        return self._browse(request, identity, place - 1, values)

    def later(self, request: gr.Request, identity: str | None, place: int, *values: Any) -> Updates:
        return self._browse(request, identity, place + 1, values)

    def narrow(self, request: gr.Request, identity: str | None, place: int, *values: Any) -> Updates:
        """Other filters: from the first conversation that passes."""
        return self._browse(request, identity, 0, values)

    def choose_models(self, request: gr.Request, identity: str | None, place: int, *values: Any) -> Updates:
        try:
            return self.browser.with_models(self._read(request, identity), values, place)
        except DistillerError as error:
            return {self.notice: alert_html(str(error))}

    def _browse(self, request: gr.Request, identity: str | None, place: int, values: Sequence[Any]) -> Updates:
        if identity is None:  # the search box says that it has changed when it is drawn, before a report is picked
            return {self.notice: gr.skip()}
        try:
            return self.browser.at(self._read(request, identity), values, place)
        except DistillerError as error:
            return {self.notice: alert_html(str(error))}

    def _read(self, request: gr.Request, identity: str | None) -> dict[str, Any]:
        return self.shelf.read(find_report(self.shelf, identity, owner=visitor_of(request).owner))

    def download(self, request: gr.Request, label: str, identity: str | None) -> Updates:
        """A file of the picked report, where the browser can fetch it. Made when it is asked for."""
        what = next(name for name, words in DOWNLOADS.items() if words == label)
        made = {"table.csv": table_csv, "turns.csv": turns_csv}
        try:
            entry = find_report(self.shelf, identity, owner=visitor_of(request).owner)
            text = made[what](self.shelf.read(entry)) if what in made else (entry.folder / what).read_text("utf-8")
        except (DistillerError, OSError) as error:
            return {self.notice: alert_html(f"That file cannot be made: {error}"), self.saved: None}
        folder = Path(get_upload_folder()) / "reports" / hashlib.sha256(text.encode()).hexdigest()
        path = folder / f"{entry.folder.name}-{what}"
        if not path.exists():
            write_text(path, text)
        return {self.saved: str(path)}


def build_evaluation_tab(page: gr.Blocks) -> None:
    """The tab's content; what lasts longer than a visit, the shelf of reports that were read, is made here."""
    with gr.Column(elem_id="evaluation"):
        with gr.Row(elem_id="evaluation-pick"):
            picker = gr.Dropdown([], label="Report", elem_id="evaluation-report")
            refresh = gr.Button("Refresh", size="sm", min_width=0)
        form = build_form()
        notice = gr.HTML()
        work = gr.HTML('<p class="small" role="status">Loading the reports…</p>')
        with gr.Row(visible=False, elem_id="evaluation-actions") as actions:
            stop = gr.Button("Stop", min_width=90, elem_id="evaluation-stop")
            go_on = gr.Button("Go on", min_width=90, visible=False, elem_id="evaluation-go-on")
        with gr.Column(visible=False) as report:
            summary = gr.HTML()
            with gr.Tabs():
                with gr.Tab("Results"):
                    table = gr.HTML()
                with gr.Tab("Charts"), gr.Row(elem_id="evaluation-charts"):
                    plots = [
                        gr.Plot(
                            show_label=False, label=f"Chart {k + 1}", elem_classes="wide" if k == MAX_CHARTS - 1 else ""
                        )
                        for k in range(MAX_CHARTS)
                    ]
                with gr.Tab("Conversations"):
                    browser = build_browser()
            with gr.Row(elem_id="evaluation-downloads"):
                gr.HTML('<span class="small">Download</span>')
                buttons = [gr.Button(words, size="sm", min_width=0) for words in DOWNLOADS.values()]
                saved = gr.DownloadButton("Save", elem_id="evaluation-saved", visible="hidden")
    tab = Tab(
        shelf=Shelf(),
        picker=picker,
        notice=notice,
        work=work,
        actions=actions,
        stop=stop,
        go_on=go_on,
        report=report,
        summary=summary,
        table=table,
        plots=plots,
        browser=browser,
        saved=saved,
        form=form,
        timer=gr.Timer(POLL_S, active=False),
        listed=gr.State([]),
    )
    _wire(page, tab, refresh, buttons)


def _wire(page: gr.Blocks, tab: Tab, refresh: gr.Button, downloads: Sequence[gr.Button]) -> None:
    browser, form = tab.browser, tab.form
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}
    browsed = [browser.place, browser.before, browser.after, browser.position, browser.conversation, tab.notice]
    progress = [tab.work, tab.actions, tab.stop, tab.go_on, tab.notice]
    listing = [tab.picker, tab.listed, tab.timer]
    content = [*progress, tab.report, tab.summary, tab.table, *tab.plots, *browser.filters, *browsed[:-1]]
    everything = [*content, *listing, form.box, form.models, form.data, form.notice]

    gr.on([page.load], tab.arrive, None, everything, **quiet)
    tab.picker.input(tab.pick, tab.picker, content, **quiet)
    refresh.click(tab.refresh, tab.picker, everything, **quiet)
    tab.timer.tick(tab.tick, [tab.picker, tab.listed], [*content, *listing], **quiet)

    form.start.click(tab.start, form.inputs, everything, **quiet)
    stopping = tab.stop.click(
        lambda: gr.Button("Stopping…", interactive=False), None, tab.stop, queue=False, api_visibility="private"
    )
    stopping.then(tab.end, tab.picker, everything, **quiet)
    tab.go_on.click(tab.resume, tab.picker, everything, **quiet)

    at = [tab.picker, browser.place, *browser.filters]
    gr.on(
        # A text that is pasted with the mouse is a change, and no input.
        [browser.intent.input, browser.turn.input, browser.outcome.input, browser.text.change],
        tab.narrow,
        at,
        browsed,
        trigger_mode="always_last",  # the last letter counts, not the first
        **quiet,
    )
    browser.models.input(tab.choose_models, at, [*browsed, browser.outcome], trigger_mode="always_last", **quiet)
    browser.against.input(tab.choose_models, at, [*browsed, browser.outcome], **quiet)
    browser.before.click(tab.earlier, at, browsed, **quiet)
    browser.after.click(tab.later, at, browsed, **quiet)

    for button in downloads:
        made = button.click(tab.download, [button, tab.picker], [tab.saved, tab.notice], **quiet)
        made.then(None, None, None, js=_SAVE, api_visibility="private")
