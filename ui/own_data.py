"""Conversations that a visitor brings to the Distill tab: a file or a Hub data set, its columns, its first rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from distiller.errors import DistillerError
from ui.access import AccessError, require_owner, visitor_of
from ui.job_form import to_problem
from ui.uploads import MAX_MB, TARGETS, TYPES, Upload, columns_of, fetch_hub, guess_columns, read_upload

_PREVIEWED = 5


@dataclass(frozen=True)
class Brought:
    """A visitor's file, how its columns are read, and what that comes to."""

    path: Path
    column_map: dict[str, str]
    upload: Upload


def take_file(file: str | None) -> tuple[Any, ...]:
    """→ what was brought, its columns' dropdowns, the first rows, the notice."""
    if not file:
        return _nothing_brought("")
    try:
        return _first_look(Path(file))
    except DistillerError as error:
        return _nothing_brought(str(error))


def take_hub(name: str, config: str, split: str, request: gr.Request) -> tuple[Any, ...]:
    try:
        require_owner(request, "Loading a data set from the Hub")
        if not name.strip():
            raise AccessError(
                "Name a data set of the Hub, for example bitext/Bitext-customer-support-llm-chatbot-training-dataset."
            )
        return _first_look(fetch_hub(name.strip(), config.strip(), split.strip(), visitor_of(request)))
    except DistillerError as error:
        return _nothing_brought(str(error))


def remap(brought: Brought | None, *columns: str | None) -> tuple[Any, ...]:
    if brought is None:
        return _nothing_brought("")
    chosen = {target: column for target, column in zip(TARGETS, columns, strict=True) if column}
    try:
        return _shown_upload(Brought(brought.path, chosen, read_upload(brought.path, chosen)))
    except DistillerError as error:
        return brought, *[gr.skip()] * len(TARGETS), gr.skip(), to_problem(str(error))


def _first_look(path: Path) -> tuple[Any, ...]:
    names = columns_of(path)
    guessed = guess_columns(names)
    if names and "user" not in guessed:
        unread = Brought(path, guessed, Upload(path.name, [], []))
        return *_shown_upload(unread)[:-1], to_problem(f"{path.name}: say which column holds the customer's words.")
    return _shown_upload(Brought(path, guessed, read_upload(path, guessed)))


def _shown_upload(brought: Brought) -> tuple[Any, ...]:
    names = columns_of(brought.path)
    columns = [
        gr.Dropdown(choices=["", *names], value=brought.column_map.get(target, ""), visible=bool(names))
        for target in TARGETS
    ]
    conversations, bad = brought.upload.conversations, brought.upload.bad
    rows = [
        [turn.query, turn.reference or "", conversation.intent or ""]
        for conversation in conversations[:_PREVIEWED]
        for turn in conversation.turns()[:1]
    ]
    turns = sum(len(conversation.turns()) for conversation in conversations)
    words = f"{len(conversations):,} conversations with {turns:,} customer turns; the first ones:"
    if bad:
        words += f" {len(bad):,} lines cannot be read and are left out, the first: line {bad[0].line}, {bad[0].reason}"
    return brought, *columns, gr.Dataframe(rows, label=words, visible=True), ""


def _nothing_brought(words: str) -> tuple[Any, ...]:
    return None, *[gr.Dropdown(visible=False)] * len(TARGETS), gr.Dataframe(visible=False), to_problem(words)


def build_own_data(preview: gr.State) -> gr.Button:
    """A visitor's own data; the button puts it into the job."""
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    with gr.Accordion("Your own conversations", open=False):
        file = gr.File(
            label=f"JSONL, JSON, CSV or TSV, at most {MAX_MB} MB", file_types=list(TYPES), height=120, elem_id="upload"
        )
        with gr.Row():
            hub = gr.Textbox(label="Or a data set of the Hub", placeholder="owner/name", min_width=160)
            config = gr.Textbox(label="Configuration", min_width=90)
            split = gr.Textbox(label="Split", value="train", min_width=70)
            hub_button = gr.Button("Load", min_width=70)
        with gr.Row():
            columns = [gr.Dropdown([], label=_COLUMN_WORDS[target], visible=False, min_width=130) for target in TARGETS]
        rows = gr.Dataframe(headers=["Customer", "Agent", "Intent"], interactive=False, wrap=True, visible=False)
        notice = gr.HTML(elem_classes="data-problem")
        use_button = gr.Button("Use it in the job")
    outputs = [preview, *columns, rows, notice]
    file.change(take_file, file, outputs, **quiet)
    hub_button.click(take_hub, [hub, config, split], outputs, api_visibility="private")
    for column in columns:
        column.input(remap, [preview, *columns], outputs, **quiet)
    return use_button


_COLUMN_WORDS = {
    "user": "Column of the customer's words",
    "assistant": "Column of the agent's reply",
    "intent": "Column of the intent",
    "conversation": "Column that joins rows of one conversation",
}
