"""New evaluation: which models, on what, and how much. The form, and what is asked for with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from distiller.chat.registry import MODEL_NAME_HELP, OPENERS
from distiller.errors import DataError, DistillerError, JobError, ModelError
from distiller.job import Evaluation, load_job
from distiller.runs import find_run, list_runs, runs_folder
from distiller.schema import Conversation, read_conversations
from ui.access import require_owner
from ui.evaluation_html import alert_html, count
from ui.job_form import QUICKSTART
from ui.models import default_pair, label_of, offered
from ui.uploads import MAX_MB, TARGETS, TYPES, columns_of, guess_columns, keep_upload, read_upload, uploads_folder

UPLOAD = "A file of my own (upload)"
MAX_MODELS = 8
SHIPPED = Path(__file__).parents[1] / "datasets"
HELPDESK = "helpdesk"
WHAT = "Starting an evaluation"
_COLUMNS = {
    "user": "Customer's message",
    "assistant": "Your team's reply",
    "intent": "Intent (optional)",
    "conversation": "Conversation number (optional)",
}
_NONE = "–"


def data_sets() -> dict[str, Path]:
    """Words → file: the runs' test sets, the sets that ship, what was uploaded before."""
    tests = {f"Run {run.id}: its test set": run.path("data", "test.jsonl") for run in list_runs()}
    shipped = {f"{path.parent.name}: test set that ships": path for path in sorted(SHIPPED.glob("*/test.jsonl"))}
    shipped = dict(sorted(shipped.items(), key=lambda item: not item[0].startswith(HELPDESK)))
    uploaded = {f"{path.stem}: uploaded before": path for path in sorted(uploads_folder().glob("*.jsonl"))}
    return {words: path for words, path in (tests | shipped | uploaded).items() if path.exists()}


@dataclass(frozen=True)
class Asked:
    """What `evals.background.start_evaluation` takes."""

    models: list[str]
    data: Path
    options: list[str]


def asked(
    models: Sequence[str],
    data: str | None,
    file: str | None,
    columns: Mapping[str, str],
    conversations: float | None,
    max_tokens: float | None,
    timed_turns: float | None,
) -> Asked:
    """The form's values, checked. Raises DistillerError that says what to mend."""
    names = list(dict.fromkeys(name.strip() for name in models if name.strip()))
    if not names:
        raise ModelError("Choose at least one model; two or more can be compared.")
    if len(names) > MAX_MODELS:
        raise ModelError(f"{len(names)} models are chosen; at most {MAX_MODELS} fit side by side.")
    for name in names:
        _check_name(name)
    options = [
        f"--limit={_whole(conversations or 0, 'Conversations', 0, 100_000)}",
        f"--max-tokens={_whole(max_tokens, 'Longest reply', 1, 4096)}",
        f"--timed-turns={_whole(timed_turns, 'Timed turns', 1, 200)}",
    ]
    if data == UPLOAD:
        if not file:
            raise DataError("Upload a file first, or choose conversations that are here already.")
        return Asked(names, keep_upload(read_upload(Path(file), columns)), options)
    path = data_sets().get(data or "")
    if path is None:
        raise DataError("Choose the conversations that the models are to answer.")
    return Asked(names, path, options + _of_the_run(path))


def _check_name(name: str) -> None:
    scheme, _, rest = name.partition(":")
    if scheme not in OPENERS or not rest or "," in name:
        raise ModelError(f"{name!r} is no model name. Expected {MODEL_NAME_HELP}, without commas.")
    if scheme == "recorded" and not Path(rest).is_file():
        raise ModelError(f"{name!r}: there is no file {rest}.")
    if scheme == "hf" and rest.startswith(("/", ".")) and not Path(rest).is_dir():
        raise ModelError(f"{name!r}: there is no folder {rest}.")
    if scheme == "run":
        find_run(rest.partition("/")[0])


def _whole(value: float | None, what: str, low: int, high: int) -> int:
    if value is None or value != int(value) or not low <= value <= high:
        shown = "nothing" if value is None else f"{value:g}"
        raise DataError(f"{what}: {shown} was given; it has to be a whole number from {low:,} to {high:,}.")
    return int(value)


def _of_the_run(path: Path) -> list[str]:
    """What models of no run are told: what the run, or the shop whose data it is, tells its student, policy lines
    included. A run's test set is judged by its training set where it has no facts."""
    if path.resolve().is_relative_to(SHIPPED / HELPDESK):
        return [f"--job={QUICKSTART}"]
    folder = path.parent.parent
    if folder.parent != runs_folder() or not (folder / "job.yaml").exists():
        return []
    job, training = find_run(folder.name).job, path.with_name("train.jsonl")
    try:
        load_job(folder / "job.yaml")
        options = [f"--job={folder / 'job.yaml'}"]
    except JobError:  # the files it was made from are gone: its prompt is left
        options = [f"--system-prompt={job.system_prompt}"]
    facts = any(turn.facts or turn.forbidden for c in read_conversations(path) for turn in c.turns())
    return options if facts or not training.exists() else [*options, f"--training={training}"]


def preview_html(conversations: Sequence[Conversation], bad: Sequence[Any] = ()) -> str:
    """What is in the data, what it can be judged by, and how it begins."""
    turns = [turn for conversation in conversations for turn in conversation.turns()]
    facts = sum(bool(turn.facts or turn.forbidden) for turn in turns)
    references = sum(bool(turn.reference) for turn in turns)
    judged = (
        f"{facts:,} of the turns name facts: there a reply is right when it states them all."
        if facts
        else "No turn names facts, so nothing is counted as right or wrong"
        + (
            "; replies are compared with the references."
            if references
            else ", and there are no replies to compare with."
        )
    )
    left_out = ""
    if bad:
        lines = "; ".join(f"line {line.line}: {line.reason}" for line in bad[:3])
        left_out = f'<p class="notice">{count(len(bad), "line")} left out ({escape(lines)}{"; …" if len(bad) > 3 else ""}).</p>'
    said = "".join(
        f"<p><b>{'Customer' if message.role == 'user' else 'Reply'}:</b> {escape(message.content[:300])}</p>"
        for message in conversations[0].messages[:4]
        if message.role in {"user", "assistant"}
    )
    return (
        f"<p><b>{count(len(conversations), 'conversation')}, {count(len(turns), 'turn')}.</b> {judged}</p>{left_out}"
        f"<details><summary>How it begins</summary>{said}</details>"
    )


@dataclass(frozen=True)
class Form:
    """The components that the tab wires; `inputs` are in the order of `asked_of`."""

    box: gr.Accordion
    models: gr.Dropdown
    data: gr.Dropdown
    notice: gr.HTML
    start: gr.Button
    inputs: list[Any]

    def offer(self, *, choose: bool) -> dict[Any, Any]:
        """What can be chosen now, for an owner's eyes alone. `choose`: the newest run's teacher and student, too."""
        names, sets = list(offered()), [*data_sets(), UPLOAD]
        choices = [(label_of(name), name) for name in names]
        if not choose:
            return {self.models: gr.Dropdown(choices=choices), self.data: gr.Dropdown(choices=sets)}
        pair = list(dict.fromkeys(default_pair(names)))
        return {
            self.models: gr.Dropdown(choices=choices, value=pair[::-1]),
            self.data: gr.Dropdown(choices=sets, value=sets[0]),
        }


def columns_given(columns: Sequence[str | None]) -> dict[str, str]:
    return {target: c for target, c in zip(TARGETS, columns, strict=True) if c and c != _NONE}


def asked_of(values: Sequence[Any]) -> Asked:
    models, data, file, *rest = values
    columns, numbers = rest[: len(TARGETS)], rest[len(TARGETS) :]
    return asked(models or [], data, file, columns_given(columns), *numbers)


def look(data: str | None, file: str | None, *columns: str | None) -> str:
    """The preview of what is chosen, or what is wrong with it."""
    try:
        if data == UPLOAD:
            if not file:
                return f'<p class="small">JSONL or CSV in UTF-8, at most {MAX_MB} MB.</p>'
            upload = read_upload(Path(file), columns_given(columns))
            return preview_html(upload.conversations, upload.bad)
        path = data_sets().get(data or "")
        return preview_html(read_conversations(path)) if path else ""
    except DistillerError as error:
        return alert_html(str(error))


def build_form() -> Form:
    """An accordion, hidden and without choices until the tab knows that an owner looks."""
    defaults = Evaluation()
    with gr.Accordion("New evaluation", open=False, visible=False, elem_id="evaluation-new") as box:
        models = gr.Dropdown(
            [],
            multiselect=True,
            allow_custom_value=True,
            label="Models",
            info="Pick two or more, or type a name and press Enter: hf:FOLDER, openai:MODEL@ADDRESS, recorded:FILE.jsonl",
            elem_id="evaluation-models",
        )
        data = gr.Dropdown(
            [],
            label="Conversations to answer",
            info="Best ones that no model was trained on",
            elem_id="evaluation-data",
        )
        with gr.Column(visible=False) as own:
            file = gr.File(
                label=f"File: {', '.join(TYPES)}", file_types=list(TYPES), height=120, elem_id="evaluation-file"
            )
            with gr.Row(visible=False, elem_id="evaluation-columns") as table:
                columns = [gr.Dropdown([_NONE], value=_NONE, label=words, min_width=200) for words in _COLUMNS.values()]
        preview = gr.HTML(elem_id="evaluation-preview")
        with gr.Row():
            conversations = gr.Number(
                40,
                precision=0,
                label="Conversations",
                info="how many, evenly from all intents; 0 = all",
                min_width=200,
            )
            max_tokens = gr.Number(
                64,
                precision=0,
                label="Longest reply, tokens",
                info="a token is about three quarters of a word",
                min_width=200,
            )
            timed_turns = gr.Number(
                defaults.timed_turns, precision=0, label="Timed turns", info="answered one at a time to measure the speed", min_width=200
            )  # fmt: skip
        notice = gr.HTML(elem_id="evaluation-form-notice")
        start = gr.Button("Start", variant="primary", elem_id="evaluation-start")

    def choose(request: gr.Request, chosen: str, path: str | None, *given: str | None) -> tuple[Any, str]:
        try:
            require_owner(request, WHAT)
        except DistillerError as error:
            return gr.skip(), alert_html(str(error))
        return gr.Column(visible=chosen == UPLOAD), look(chosen, path, *given)

    def receive(request: gr.Request, path: str | None) -> list[Any]:
        try:
            require_owner(request, WHAT)
            found = columns_of(Path(path)) if path else []
        except DistillerError as error:
            return [gr.Row(visible=False), *[gr.skip()] * len(columns), alert_html(str(error))]
        guess = guess_columns(found)
        given = [guess.get(target, _NONE) for target in TARGETS]
        updates = [gr.Dropdown(choices=[_NONE, *found], value=column) for column in given]
        return [gr.Row(visible=bool(found)), *updates, look(UPLOAD, path, *given)]

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    gr.on(
        [data.input, *(column.input for column in columns), box.expand],
        choose,
        [data, file, *columns],
        [own, preview],
        **quiet,
    )
    gr.on([file.upload, file.clear], receive, file, [table, *columns, preview], **quiet)
    inputs = [models, data, file, *columns, conversations, max_tokens, timed_turns]
    return Form(box, models, data, notice, start, inputs)
