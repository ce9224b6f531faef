"""What the page shows of a run: its stages, its bar, its curves, its latest examples, its log. No Gradio here."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from distiller.errors import DistillerError
from distiller.jobs import state_of
from distiller.pipeline import STAGES
from distiller.runs import Run
from distiller.watch import Watch

#: stage → what it does, for those who read it the first time.
STAGE_WORDS = {
    "prepare": "Take the sample",
    "adapt_teacher": "Adapt the teacher",
    "generate": "The teacher answers",
    "curate": "Keep what is good",
    "student": "Cut the student",
    "train": "Train the student",
    "reference_trained": "Train on references alone",
    "evaluate": "Compare all models",
}
STATE_WORDS = {
    "queued": "waits for its turn",
    "running": "under way",
    "complete": "complete",
    "failed": "failed",
    "stopped": "stopped",
}
_EXAMPLES, _NOTES = 3, 12
_TAIL_BYTES = 200_000
_TOKENS = ("prompt_tokens", "completion_tokens")


def overall_state(run: Run) -> str:
    """The state of the run with its evaluation, where its job names test data."""
    state = state_of(run)
    if state == "complete" and run.job.test_data is not None and not run.path("report.json").exists():
        watch = Watch(run.folder).refresh()
        return "failed" if watch.last == "failed" else "stopped"
    return state


def run_rows(runs: Sequence[Run]) -> list[list[str]]:
    """[run, state, started, took, result] of each."""
    rows = []
    for run in runs:
        try:
            job = run.job
        except DistillerError:
            rows.append([run.id, "made by another version", "", "", ""])
            continue
        started = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.path("job.yaml").stat().st_mtime))
        took = sum(figures.get("seconds", 0) for figures in run.state.values())
        result = result_of(run) or f"{job.teacher_model} → {job.student_model}"
        rows.append([run.id, STATE_WORDS[overall_state(run)], started, in_minutes(took), result])
    return rows


def result_of(run: Run) -> str:
    """The report in a line; empty where there is none yet."""
    report = read_report(run)
    if report is None:
        return ""
    quality = "accuracy" if report["accuracy_kind"] else "embedding_similarity"
    found = {row["role"]: row[quality] for row in report["rows"]}
    parts = [f"{role} {found[role]:.0%}" for role in ("student", "teacher", "baseline") if found.get(role) is not None]
    return " · ".join(parts) + (" correct" if quality == "accuracy" else " similar")


def read_report(run: Run) -> dict[str, Any] | None:
    path = run.path("report.json")
    try:
        return json.loads(path.read_text("utf-8")) if path.exists() else None
    except (OSError, ValueError):
        return None


def in_minutes(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def panel(run: Run, watch: Watch) -> str:
    """HTML: state, stages, bar, result or failure."""
    state = overall_state(run)
    try:
        job = run.job
        models = f"{escape(job.teacher_model)} → {escape(job.student_model)}"
        wanted = [*STAGES, *(["evaluate"] if job.test_data is not None else [])]
    except DistillerError as error:
        return f'<div class="run"><p class="notice" role="alert">{escape(str(error))}</p></div>'
    took = in_minutes(watch.seconds)
    head = (
        f'<p class="run-head"><b>{escape(run.id)}</b> <span class="state {state}">{STATE_WORDS[state]}</span>'
        f'<span class="small">{models}{" · " + took if took else ""}</span></p>'
    )
    body = f'<ol class="stages">{"".join(_stage(name, run, watch, state) for name in wanted)}</ol>'
    if state == "failed":
        body += f'<p class="notice" role="alert">{escape(watch.reason or "It ended before its end. The log says more.")}</p>'
    elif state == "stopped":
        body += '<p class="small">Stopped. What is done stays done: Resume goes on from there.</p>'
    elif state == "queued":
        body += '<p class="small">Another run or evaluation is under way on this machine; this one starts after it.</p>'
    return f'<div class="run">{head}{body}{_bar(watch) if state == "running" else ""}{_result(run)}</div>'


def _stage(name: str, run: Run, watch: Watch, state: str) -> str:
    done = run.state.get(name)
    if name == "evaluate":
        done = {} if run.path("report.json").exists() else None
    if done is not None and done.get("skipped"):
        kind, words = "skipped", "not asked for"
    elif done is not None:
        kind, words = "done", in_minutes(done["seconds"]) if done.get("seconds") else ""
    elif state == "running" and watch.stage == name:
        kind, words = "now", "now"
    else:
        kind, words = "open", ""
    mark = {"done": "✓", "now": "●", "skipped": "–", "open": "○"}[kind]
    current = ' aria-current="step"' if kind == "now" else ""
    return (
        f'<li class="{kind}"{current}><span aria-hidden="true">{mark}</span> {STAGE_WORDS.get(name, name)} '
        f'<span class="small">{words}</span></li>'
    )


def _bar(watch: Watch) -> str:
    bar = watch.bar
    if bar is None or bar.final or not bar.total:
        last = watch.notes[-1] if watch.notes else "Starting: the first words take some seconds."
        return f'<p class="bar-words">{escape(last)}</p><div class="bar"></div>'
    share = min(1.0, bar.done / bar.total)
    parts = [f"{escape(bar.label)}: {bar.done:,} of {bar.total:,} {escape(bar.unit)}"]
    if bar.rate:
        parts.append(f"{bar.rate:,.1f} {escape(bar.unit)}/s")
    if bar.left_s is not None:
        parts.append(f"{in_minutes(bar.left_s)} left")
    return (
        f'<p class="bar-words">{" · ".join(parts)}</p><div class="bar" role="progressbar" aria-valuemin="0" '
        f'aria-valuemax="100" aria-valuenow="{100 * share:.0f}" aria-label="{escape(bar.label, quote=True)}">'
        f'<div style="width:{100 * share:.1f}%"></div></div>'
    )


def _result(run: Run) -> str:
    report = read_report(run)
    if report is None:
        return ""
    words = "".join(f"<li>{escape(said)}</li>" for said in report["verdicts"])
    return f'<p><b>{escape(result_of(run))}</b></p><ul class="verdicts">{words}</ul>'


def spend(run: Run, watch: Watch) -> str:
    """What the teacher's replies took so far: tokens, and dollars where the job knows the price."""
    if not watch.spend:
        return ""
    job = run.job
    total = {key: sum(part[key] for part in watch.spend.values()) for key in ("replies", *_TOKENS)}
    words = f"{total['replies']:,} replies of the teacher: {total['prompt_tokens']:,} tokens read, "
    words += f"{total['completion_tokens']:,} written"
    if job.teacher_price is not None:
        prices = (job.teacher_price.input_per_million, job.teacher_price.output_per_million)
        return (
            f"{words}; ${sum(total[key] * price for key, price in zip(_TOKENS, prices, strict=True)) / 1e6:,.2f} so far"
        )
    return words if job.teacher_model.startswith("openai:") else f"{words}; it runs here, so nothing is charged"


def examples(run: Run) -> str:
    """HTML: the newest replies of the teacher, next to the references."""
    rows = _newest(run.path("synthetic.train.jsonl")) or _newest(run.path("synthetic.validation.jsonl"))
    shown = []
    for row in reversed(rows):
        messages = [message for message in row["messages"] if message["role"] != "system"]
        query = next((m["content"] for m in messages if m["role"] == "user"), "")
        reply = next((m["content"] for m in messages if m["role"] == "assistant"), "")
        reference = next(iter(row["metadata"].get("references") or []), None)
        shown.append(
            f"<dl><dt>Customer</dt><dd>{escape(query)}</dd><dt>Teacher</dt><dd>{escape(reply)}</dd>"
            + (f"<dt>Reference</dt><dd>{escape(reference)}</dd>" if reference else "")
            + "</dl>"
        )
    if not shown:
        return '<p class="small">The teacher\'s replies appear here as they come.</p>'
    return f'<div class="examples">{"".join(shown)}</div>'


def log(watch: Watch) -> str:
    return "\n".join(watch.notes[-_NOTES:]) or "Nothing said yet."


def loss_curves(watch: Watch) -> Any:
    """A plotly figure of training and validation loss against optimizer steps."""
    import plotly.graph_objects as go

    labels = list(dict.fromkeys(entry["label"] for entry in [*watch.losses, *watch.epochs]))
    figure = go.Figure()
    if not labels:
        figure.add_annotation(text="The loss appears here while a model trains.", showarrow=False, x=0.5, y=0.5)
        figure.update_xaxes(visible=False)
        figure.update_yaxes(visible=False)
    colours = ("#0a8f6a", "#d98a1f", "#7a5cc0")
    for label, colour in zip(labels, colours, strict=False):
        steps = [(e["step"], e["loss"]) for e in watch.losses if e["label"] == label]
        ends = [(e["step"], e["validation"]["loss"]) for e in watch.epochs if e["label"] == label]
        if steps:
            figure.add_scatter(
                x=[x for x, _ in steps],
                y=[y for _, y in steps],
                name=f"{label}: training",
                line={"color": colour, "width": 1.5},
            )
        if ends:
            figure.add_scatter(
                x=[x for x, _ in ends],
                y=[y for _, y in ends],
                name=f"{label}: validation",
                mode="lines+markers",
                line={"color": colour, "dash": "dot"},
            )
    figure.update_layout(
        height=300,
        margin={"l": 50, "r": 12, "t": 12, "b": 44},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": "#8a8580"},
        legend={"orientation": "h", "y": 1.12},
        uirevision="keep",
    )
    grid = {"gridcolor": "rgba(128,128,128,.22)", "zerolinecolor": "rgba(128,128,128,.35)"}
    figure.update_xaxes(title="optimizer steps", **grid)
    figure.update_yaxes(title="loss", **grid)
    return figure


def _newest(path: Path) -> list[dict[str, Any]]:
    """The last rows of a JSONL file that may be long, or half written."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _TAIL_BYTES))
        lines = file.read().split(b"\n")
    # The first line may have been cut, the last one may not be finished.
    whole = lines[:-1] if size <= _TAIL_BYTES else lines[1:-1]
    return [json.loads(line) for line in whole[-_EXAMPLES:]]
