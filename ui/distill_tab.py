"""Distill: the job as a form and as YAML, and the run that it starts, watched live.

A run is a process of its own. This page only reads its events, so a reload, a closed tab or a restart
of the app change nothing about it.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import gradio as gr

from distiller.errors import DistillerError
from distiller.job import load_job
from distiller.runs import Run, find_run
from distiller.watch import Watch
from distiller.work import stop_work
from evals.background import start_run
from ui import job_form, run_view
from ui.access import AccessError, claim, require_owner, started_by, visible_runs, visitor_of
from ui.job_form import QUICKSTART, Field, bounded, job_of, presets, problem_in, to_problem, values_of, with_value
from ui.own_data import Brought, build_own_data
from ui.uploads import (
    owns,
    split_upload,
)

TAB_ID = "distill"
TICK_S = 1.5
_BUSY = {"running", "queued"}
#: The groups that are open from the start; the others have sound defaults.
_OPEN = ("Models", "Data")

CSS = """
#offer { align-items: center; gap: 14px; padding: 10px 14px; border: 1px solid var(--border-color-primary);
  border-radius: var(--radius-lg); background: var(--block-background-fill); }
#job-form .form { border: none; }
.run { min-height: 300px; }
.run-head { display: flex; flex-wrap: wrap; gap: 4px 12px; align-items: baseline; margin: 0 0 8px; }
.state { padding: 1px 9px; border-radius: 99px; font-size: var(--text-sm); background: var(--neutral-200); color: var(--neutral-800); }
.state.running { background: var(--primary-200); color: var(--primary-900); }
.state.complete { background: var(--primary-700); color: white; }
.state.failed { background: var(--error-background-fill); color: var(--error-text-color); }
.stages { list-style: none; display: grid; grid-template-columns: repeat(auto-fill, minmax(210px, 1fr)); gap: 2px 14px;
  margin: 0 0 10px; padding: 0; }
.stages li { color: var(--body-text-color-subdued); }
.stages .done, .stages .now { color: var(--body-text-color); }
.stages .now { font-weight: 600; }
.stages .done > span:first-child, .stages .now > span:first-child { color: var(--color-accent); }
.bar-words { margin: 0 0 4px; min-height: 1.5em; font-variant-numeric: tabular-nums; }
.bar { height: 8px; border-radius: 99px; background: var(--border-color-primary); overflow: hidden; }
.bar > div { height: 100%; background: var(--color-accent); transition: width .6s; }
.verdicts { margin: 4px 0 0 1.1em; padding: 0; }
.examples dl { display: grid; grid-template-columns: 84px 1fr; gap: 2px 10px; margin: 0 0 10px; padding: 8px 12px;
  border: 1px solid var(--border-color-primary); border-radius: var(--radius-lg); background: var(--block-background-fill); }
.examples dt { color: var(--body-text-color-subdued); font-size: var(--text-sm); }
.examples dd { margin: 0; overflow-wrap: anywhere; }
#runs [role="grid"] * { font-family: var(--font) !important; font-variant-numeric: tabular-nums; }
#job-problem:not(:has(.notice)) { display: none; }
@media (max-width: 640px) { .examples dl { grid-template-columns: 1fr; } }
"""


# The form. Every handler takes the YAML and gives the YAML: it is the job.


def take_preset(name: str) -> tuple[Any, ...]:
    """→ the YAML, the problem, every field."""
    return _shown(presets()[name].read_text("utf-8"))


def take_field(key: str, value: Any, text: str) -> tuple[Any, ...]:
    """→ the YAML, the problem."""
    try:
        text = with_value(text, key, value)
    except DistillerError as error:
        return gr.skip(), to_problem(str(error))
    return text, to_problem(problem_in(text))


def take_text(text: str) -> tuple[Any, ...]:
    """The YAML was written in by hand → the YAML, the problem, every field."""
    try:
        return _shown(text)
    except DistillerError as error:
        return gr.skip(), to_problem(str(error)), *[gr.skip()] * len(job_form.all_fields())


def _shown(text: str) -> tuple[Any, ...]:
    return text, to_problem(problem_in(text)), *values_of(text)


# Data of the visitor's own.


def use_upload(brought: Brought | None, text: str, request: gr.Request) -> tuple[Any, ...]:
    """Puts the visitor's data into the job → the YAML, the problem, every field."""
    skipped = [gr.skip()] * len(job_form.all_fields())
    if brought is None:
        return gr.skip(), to_problem("Upload a file first, or load one from the Hub."), *skipped
    try:
        for key, path in split_upload(brought.upload, visitor_of(request)).items():
            text = with_value(text, key, str(path))
        for key in ("retrieval.policies", "retrieval.questions"):
            text = with_value(text, key, None)  # they belong to the shop that ships
        return _shown(text)
    except DistillerError as error:
        return gr.skip(), to_problem(str(error)), *skipped


# The run.


def start(text: str, request: gr.Request) -> tuple[Any, ...]:
    """→ the chosen run, the problem, then all that `show` gives."""
    visitor = visitor_of(request)
    try:
        job = job_of(text)
        if not visitor.owner:
            job = bounded(job, partial(owns, visitor))
            mine = [run for run in visible_runs(visitor) if started_by(run)[0] == visitor.id]
            if busy := next((run.id for run in mine if run_view.overall_state(run) in _BUSY), None):
                raise AccessError(f"Your run {busy} is not done yet. Stop it, or wait for it: one at a time.")
        run = start_run(job)
        if not visitor.owner:
            claim(run, visitor, private=owns(visitor, job.training_data))
    except DistillerError as error:
        return gr.skip(), to_problem(str(error)), *[gr.skip()] * _SHOWN
    return run.id, "", *show(run.id, request)


def resume(run_id: str | None, request: gr.Request) -> tuple[Any, ...]:
    """→ the problem, then all that `show` gives."""
    try:
        run = _owned(run_id, request, "Resuming a run")
        start_run(run.job)
    except DistillerError as error:
        return to_problem(str(error)), *[gr.skip()] * _SHOWN
    return "", *show(run.id, request)


def stop(run_id: str | None, request: gr.Request) -> tuple[Any, ...]:
    try:
        run = _owned(run_id, request, "Stopping a run")
        stop_work(run.folder)
    except DistillerError as error:
        return to_problem(str(error)), *[gr.skip()] * _SHOWN
    return "", *show(run.id, request)


def _owned(run_id: str | None, request: gr.Request, what: str) -> Run:
    if not run_id:
        raise AccessError("Pick a run first.")
    visitor = visitor_of(request)
    run = find_run(run_id)
    if started_by(run)[0] != visitor.id:
        require_owner(request, what)
    return run


#: How many values `show` gives.
_SHOWN = 9


def show(run_id: str | None, request: gr.Request) -> tuple[Any, ...]:
    """→ panel, spend, examples, curves, log, Stop, Resume, the list of runs, the timer."""
    runs = visible_runs(visitor_of(request))
    run = next((run for run in runs if run.id == run_id), None)
    rows = run_view.run_rows(runs)
    if run is None:
        empty = "<p>No run yet. <b>Start</b> distils the job on the left; the quickstart takes about ten minutes on two cores.</p>"
        quiet = gr.update(interactive=False)
        return empty, "", "", run_view.loss_curves(Watch(Path())), "", quiet, quiet, rows, gr.Timer(active=False)
    watch = Watch(run.folder).refresh()
    state = run_view.overall_state(run)
    busy = state in _BUSY
    return (
        run_view.panel(run, watch),
        run_view.spend(run, watch),
        run_view.examples(run),
        run_view.loss_curves(watch),
        run_view.log(watch),
        gr.update(interactive=busy),
        gr.update(interactive=state in {"stopped", "failed"}),
        rows,
        gr.Timer(active=busy),
    )


def first_shown(request: gr.Request) -> tuple[Any, ...]:
    """The run that the address names, else the one under way, else the newest → its id, then all that `show` gives."""
    runs = visible_runs(visitor_of(request))
    named = request.query_params.get("run")
    busy = (run.id for run in runs if run_view.overall_state(run) in _BUSY)
    ids = [run.id for run in runs]
    chosen = named if named in ids else next(busy, ids[0] if ids else None)
    return chosen, *show(chosen, request)


def refreshed(run_id: str | None, request: gr.Request) -> tuple[Any, ...]:
    """When the tab is opened: what is under way, else what was chosen before → as `first_shown`."""
    busy = next((run.id for run in visible_runs(visitor_of(request)) if run_view.overall_state(run) in _BUSY), None)
    chosen = busy or run_id
    return (chosen, *show(chosen, request)) if chosen else first_shown(request)


def offered_first(request: gr.Request) -> tuple[Any, ...]:
    """The first distillation, offered as long as no run is complete → the row, its words, its button."""
    runs = visible_runs(visitor_of(request))
    if any(run.manifest is not None for run in runs):
        return gr.Row(visible=False), gr.skip(), gr.skip()
    busy = any(run_view.overall_state(run) in _BUSY for run in runs)
    words = (
        "The first student of your own is being trained; the Distill tab shows how far it is. Until then the models that "
        "ship meet here."
        if busy
        else "The models that ship meet here: the shop's teacher, the small student distilled from it, and one that nobody "
        "trained. Training a student of your own takes about ten minutes on two cores."
    )
    return gr.Row(visible=True), words, gr.Button("Watch it" if busy else "Distil the first student")


def start_first(request: gr.Request) -> Any:
    """Starts the quickstart, unless it is under way, and goes where it is watched → the tabs, a notice."""
    try:
        runs = visible_runs(visitor_of(request))
        if not any(run_view.overall_state(run) in _BUSY for run in runs):
            start_run(load_job(QUICKSTART))
    except DistillerError as error:
        return gr.skip(), str(error)
    return gr.Tabs(selected=TAB_ID), gr.skip()


def build_offer(page: gr.Blocks, tabs: gr.Tabs) -> None:
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    with gr.Row(visible=False, elem_id="offer") as row:
        words = gr.Markdown()
        button = gr.Button("Distil the first student", variant="primary", size="sm", scale=0, min_width=210)
    page.load(offered_first, None, [row, words, button], queue=False, **quiet)
    button.click(start_first, None, [tabs, words], **quiet)


def pick(rows: Any, event: gr.SelectData, request: gr.Request) -> tuple[Any, ...]:
    run_id = event.row_value[0]
    return run_id, *show(run_id, request)


def build_distill_tab(page: gr.Blocks, tab: gr.Tab) -> None:
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    text = QUICKSTART.read_text("utf-8")
    chosen, preview = gr.State(None), gr.State(None)
    with gr.Row():
        with gr.Column(scale=5, min_width=320, elem_id="job-form"):
            preset = gr.Dropdown(
                list(presets()),
                value=QUICKSTART.stem,
                label="Begin with",
                info="A job that ships; change what you like.",
            )
            components: dict[str, Any] = {}
            values = dict(zip([field.key for field in job_form.all_fields()], values_of(text), strict=True))
            for group, members in job_form.fields().items():
                with gr.Accordion(group, open=group in _OPEN):
                    for side_by_side, part in groupby(members, lambda field: field.kind in {"number", "integer"}):
                        with gr.Row() if side_by_side else nullcontext():
                            for field in part:
                                components[field.key] = _component(field, values[field.key])
                    if group == "Data":
                        use_button = build_own_data(preview)
            fields = list(components.values())
        with gr.Column(scale=6, min_width=320):
            code = gr.Code(
                text, language="yaml", label="The job", lines=14, max_lines=22, elem_id="job-yaml", interactive=True
            )
            problem = gr.HTML(elem_id="job-problem")
            with gr.Row():
                start_button = gr.Button("Start", variant="primary", min_width=90)
                stop_button = gr.Button("Stop", min_width=80, interactive=False)
                resume_button = gr.Button("Resume", min_width=80, interactive=False)
            panel = gr.HTML(elem_id="run-panel")
            money = gr.Markdown(elem_classes="small")
            with gr.Accordion("Loss", open=True):
                curves = gr.Plot(show_label=False, container=False, elem_id="curves")
            with gr.Accordion("Newest examples", open=True):
                examples = gr.HTML()
            with gr.Accordion("Log", open=False):
                log = gr.Textbox(show_label=False, lines=8, max_lines=8, interactive=False, autoscroll=True)
    with gr.Accordion("All runs", open=True):
        runs = gr.Dataframe(
            headers=["Run", "State", "Started", "Took", "Result"],
            interactive=False,
            show_label=False,
            wrap=True,
            elem_id="runs",
        )
    timer = gr.Timer(TICK_S, active=False)
    shown = [panel, money, examples, curves, log, stop_button, resume_button, runs, timer]
    assert len(shown) == _SHOWN

    preset.input(take_preset, preset, [code, problem, *fields], **quiet)
    for key, component in components.items():
        # A text is taken when its line is left: half a path is no path.
        event = component.blur if isinstance(component, gr.Textbox) else component.input
        event(
            partial(take_field, key),
            [component, code],
            [code, problem],
            queue=False,
            trigger_mode="always_last",
            **quiet,
        )
    code.blur(take_text, code, [code, problem, *fields], queue=False, **quiet)
    use_button.click(use_upload, [preview, code], [code, problem, *fields], **quiet)
    start_button.click(start, code, [chosen, problem, *shown], **quiet)
    stop_button.click(stop, chosen, [problem, *shown], **quiet)
    resume_button.click(resume, chosen, [problem, *shown], **quiet)
    timer.tick(show, chosen, shown, queue=False, **quiet)
    runs.select(pick, runs, [chosen, *shown], **quiet)
    page.load(first_shown, None, [chosen, *shown], queue=False, **quiet)
    tab.select(refreshed, chosen, [chosen, *shown], queue=False, **quiet)


def _component(field: Field, value: Any) -> Any:
    # The switch says that it is on or off; all others say what they stand at when nothing is given.
    shown: dict[str, Any] = {"label": field.label, "value": value, "elem_id": f"field-{field.key.replace('.', '-')}"}
    words = field.help + ("; empty: " + _EMPTY.get(field.key, "all") if field.optional else "")
    shown["info"] = words[:1].upper() + words[1:]
    if field.kind == "suggestion":
        return gr.Dropdown(list(field.choices), allow_custom_value=True, **shown)
    if field.kind == "choice":
        return gr.Radio(list(field.choices), **shown)
    if field.kind == "switch":
        return gr.Checkbox(**shown)
    if field.kind in {"number", "integer"}:
        exact = 0 if field.kind == "integer" else None
        return gr.Number(precision=exact, min_width=190, minimum=field.least, maximum=field.most, **shown)
    return gr.Textbox(lines=1, max_lines=6, **shown)


#: What an empty field means, where that is not "all".
_EMPTY = {
    "test_data": "the student is not evaluated",
    "retrieval.policies": "none",
    "retrieval.questions": "none",
    "teacher_adaptation.lora_rank": "all weights",
    "hyperparameters.lora_rank": "all weights",
}
