"""Data: what the student learns from, turn by turn, next to the references; mended by hand and trained again.

`data_source` reads, `data_view` filters, `data_words` puts one turn into words, `data_panes` fills the components,
`data_handlers` answers each event; here is what stands where.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from distiller.job import DistillationJob
from ui.data_handlers import Desk
from ui.data_panes import HEADERS, View, words
from ui.data_view import ALL

CSS = """
#data-top { align-items: flex-end; gap: 10px; }
#data-top #data-refresh { flex: 0 0 auto; width: auto !important; height: 42px; }
.form:has(> #data-status) { border: 0; background: none; box-shadow: none; }
#data-status { border: 0; padding: 0; background: none; box-shadow: none; overflow: visible !important; }
#data-status .wrap { gap: 6px; }
#data-status label { position: relative; padding: 4px 11px; border-radius: 99px; font-size: var(--text-sm); }
#data-status label span { margin: 0; }
#data-status label input { position: absolute; opacity: 0; inset: 0; width: 100%; height: 100%; cursor: pointer; }
#data-status label.selected { background: var(--primary-700); border-color: var(--primary-700); color: white; }
#data-status label:has(:focus-visible) { outline: 2px solid var(--color-accent); outline-offset: 2px; }
#data-filters { gap: 10px; }
#data-columns { gap: 22px; align-items: flex-start; }
#data-columns > div { gap: 10px; }
#data-table { min-height: 420px; }
#data-table [role="grid"] * { font-family: var(--font) !important; font-size: var(--text-sm); }
#data-table td { cursor: pointer; }
.data-line { gap: 8px; align-items: center; flex-wrap: wrap; }
.data-line > .html-container, .data-line > div:has(.data-words) { flex: 1 1 150px; min-width: 0 !important; }
.data-line button, #data-top button { flex: 0 0 auto; padding: 4px 11px; }
.data-words { font-size: var(--text-sm); color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums;
  overflow-wrap: anywhere; min-height: 1.4em; }
.data-words.wrong { color: var(--error-text-color); }
#data-note:not(:has(.data-words)) { display: none; }
#data-turn { min-height: 320px; }
.turn { overflow-wrap: anywhere; line-height: 1.5; }
.turn p { margin: 0; display: block; }
.turn h4 { margin: 0 0 2px; font-size: var(--text-sm); font-weight: 600; color: var(--body-text-color-subdued); }
.turn .text { white-space: pre-wrap; }
.turn .verdict { display: flex; flex-wrap: wrap; align-items: baseline; gap: 4px 8px; margin-bottom: 10px; }
.turn .badge { border-radius: 99px; padding: 1px 10px; font-size: var(--text-sm); border: 1px solid; }
.turn .kept { color: var(--primary-700); } .dark .turn .kept { color: var(--primary-400); }
.turn .dropped { color: #b42318; } .dark .turn .dropped { color: #fda29b; }
.turn .open { color: var(--body-text-color-subdued); }
.turn ol { list-style: none; margin: 0; padding: 0; display: flex; flex-direction: column; gap: 10px; }
.turn li { margin: 0; }
.turn .around { padding-left: 12px; border-left: 3px solid var(--border-color-primary);
  color: var(--body-text-color-subdued); font-size: var(--text-sm); }
.turn .focus { display: flex; flex-direction: column; gap: 12px; padding: 12px 14px; border-radius: var(--radius-lg);
  border: 1px solid var(--border-color-primary); background: var(--block-background-fill); }
.turn .pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 215px), 1fr)); gap: 12px 20px; }
.turn ul { margin: 0; padding-left: 1.1em; font-size: var(--text-sm); }
.turn ul.facts { list-style: none; padding: 0; }
.turn .also { color: var(--body-text-color-subdued); }
.turn .yes { color: var(--primary-700); } .dark .turn .yes { color: var(--primary-400); }
.turn .no { color: #b42318; } .dark .turn .no { color: #fda29b; }
.turn mark { background: #fdf0c4; color: inherit; border-radius: 3px; padding: 0 1px; }
.dark .turn mark { background: #4a3c10; }
.turn summary { cursor: pointer; font-size: var(--text-sm); }
#data-edit { gap: 8px; }
#data-edit button { flex: 0 1 auto; }
#data-train { border-top: 1px solid var(--border-color-primary); padding-top: 12px; }
.data-chart { background: none !important; border: 0 !important; padding: 0 !important; overflow: hidden; }
.data-chart text { fill: var(--body-text-color) !important; }
.data-chart .gridlayer path { stroke: var(--border-color-primary) !important; }
.data-chart .modebar-container { display: none; }
#data-charts { gap: 24px; }
@media (max-width: 640px) {
  #data-table, #data-turn { min-height: 0; }
  #data-table .virtual-table-viewport { max-height: 330px !important; }
  #data-top { flex-wrap: wrap; }
  #data-top > .form { flex: 1 1 100% !important; }
  #data-columns > div { min-width: 0 !important; flex: 1 1 100%; }
}
"""
#: The hidden download button is pressed when its file is there.
FETCH = "() => document.querySelector('#data-file').click()"
#: On a phone the chosen turn stands below the table.
TO_TURN = "() => { if (innerWidth <= 640) document.querySelector('#data-heading').scrollIntoView(); }"
INTRO = (
    "The **teacher**, a large model, answered every customer's question; checks then dropped the replies that are not "
    "worth learning. The **student**, a small model, learns from what was kept. The **reference** is the reply that "
    "the data itself gives."
)


def build_data_tab(page: gr.Blocks, start: Callable[[DistillationJob], str]) -> None:
    """`start` begins the run of a job and returns the run's id; it raises DistillerError where it cannot."""
    desk = Desk(start)
    view = gr.State(View())
    gr.Markdown(INTRO, elem_classes="small")
    with gr.Row(elem_id="data-top"):
        source = gr.Dropdown([], label="Run or data set", elem_id="data-source", scale=1)
        refresh = gr.Button("Refresh", size="sm", min_width=0, elem_id="data-refresh")
    note = gr.HTML(elem_id="data-note")
    status = gr.Radio([("All", ALL)], value=ALL, label="What became of the replies", elem_id="data-status")
    with gr.Row(elem_id="data-filters"):
        text = gr.Textbox(label="Search", placeholder="A word in a question or a reply…", min_width=180, max_lines=1)
        intent = gr.Dropdown([("All intents", "")], value="", label="Intent", min_width=150)
        split = gr.Dropdown([("All data", "")], value="", label="Part of the data", min_width=150)
    with gr.Row(elem_id="data-columns"):
        with gr.Column(scale=9, min_width=320):
            table = gr.Dataframe(
                headers=list(HEADERS),
                datatype="str",
                column_widths=["27%", "44%", "29%"],
                interactive=False,
                show_label=False,
                label="Turns",
                wrap=True,
                buttons=[],
                max_height=640,
                elem_id="data-table",
            )
            with gr.Row(elem_classes="data-line"):
                pager = gr.HTML(words(""))
                page_back = gr.Button("Previous page", size="sm", min_width=0)
                page_on = gr.Button("Next page", size="sm", min_width=0)
            with gr.Row(elem_classes="data-line"):
                gr.HTML(words("Download the rows shown:"))
                downloads = {kind: gr.Button(kind.upper(), size="sm", min_width=0) for kind in ("jsonl", "csv")}
                file = gr.DownloadButton("Download", visible="hidden", elem_id="data-file")
            download_note = gr.HTML()
        with gr.Column(scale=11, min_width=320):
            with gr.Row(elem_classes="data-line"):
                heading = gr.HTML(words(""), elem_id="data-heading")
                turn_back = gr.Button("Previous turn", size="sm", min_width=0)
                turn_on = gr.Button("Next turn", size="sm", min_width=0)
            turn = gr.HTML(elem_id="data-turn")
            with gr.Column(visible=False, elem_id="data-edit") as editing:
                box = gr.Textbox(label="The reply to learn", lines=3, max_lines=12, elem_id="data-reply")
                at = gr.Number(visible=False, precision=0)  # the turn that the box belongs to
                with gr.Row(elem_classes="data-line"):
                    save = gr.Button("Save this reply", variant="primary", size="sm", min_width=0)
                    keep = gr.Button("Keep the teacher's reply", size="sm", min_width=0)
                    drop = gr.Button("Drop", size="sm", min_width=0)
                    undo = gr.Button("Undo", size="sm", min_width=0)
                notice = gr.HTML(words(""))
                with gr.Row(elem_id="data-train", elem_classes="data-line"):
                    waits = gr.HTML(words(""))
                    train = gr.Button("Train again", variant="primary", size="sm", min_width=0)
                train_note = gr.HTML()
    with gr.Accordion("Charts of all turns", open=True), gr.Row(elem_id="data-charts"):
        with gr.Column(min_width=300):
            lengths = gr.Plot(show_label=False, label="Lengths", elem_classes="data-chart", container=False)
            reasons = gr.Plot(show_label=False, label="Drop reasons", elem_classes="data-chart", container=False)
        with gr.Column(min_width=300):
            intents = gr.Plot(show_label=False, label="Intents", elem_classes="data-chart", container=False)

    chosen: list[Any] = [view, box, at]
    shown = [table, status, pager, page_back, page_on, heading, turn_back, turn_on, turn]
    shown += [editing, box, at, save, keep, drop, undo, notice, waits, train, train_note, download_note]
    opened = [source, note, split, intent, text, lengths, reasons, intents, *shown]
    quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    reading = quiet | {"show_progress": "minimal", "show_progress_on": source}

    page.load(desk.arrive, view, opened, **reading)
    source.input(desk.pick, [view, source], opened, **reading)
    refresh.click(desk.refresh, [*chosen, source], opened, **reading)
    gr.on(
        # Not text.input: in Gradio 6.31 a text that is pasted, or shortened by Backspace, does not fire it.
        [status.input, split.input, intent.input, text.change],
        desk.filtered,
        [*chosen, status, split, intent, text],
        shown,
        trigger_mode="always_last",
        **quiet,
    )
    chose = table.select(desk.choose, chosen, shown, **quiet)
    chose.then(None, None, None, js=TO_TURN, api_visibility="private")
    for button, handler, value in (
        (page_back, desk.turn_page, -1),
        (page_on, desk.turn_page, 1),
        (turn_back, desk.turn_on, -1),
        (turn_on, desk.turn_on, 1),
        (save, desk.edit, "replace"),
        (keep, desk.edit, "keep"),
        (drop, desk.edit, "drop"),
        (undo, desk.edit, "undo"),
    ):
        button.click(handler, [*chosen, gr.State(value)], shown, **quiet)
    train.click(desk.train_again, view, [source, train_note], **quiet)
    for kind, button in downloads.items():
        made = button.click(desk.download, [view, gr.State(kind)], [file, download_note], **quiet)
        made.then(None, None, None, js=FETCH, api_visibility="private")
