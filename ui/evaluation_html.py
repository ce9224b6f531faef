"""The HTML of the Evaluation tab. Every text that comes from data, models or files is escaped here, once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import Any

from distiller.watch import Bar, Watch
from evals import judged
from evals.columns import Column, used_columns
from evals.report import notes
from ui.differences import mark
from ui.evaluation_view import UNDER_WAY, Entry, day, facts_of, name_of

#: What the lines of the table are about; the order within one is that of the report.
SECTIONS: dict[str, tuple[str, ...]] = {
    "Quality of the replies": (
        "rank", "accuracy", "retention", "improvement", "free_accuracy", "bleu", "chrf", "embedding_similarity", "n",
    ),
    "Likeness to the teacher's replies": ("teacher_bleu", "teacher_similarity"),
    "Speed": ("ttft_p50_s", "latency_p50_s", "latency_p95_s", "tokens_per_s", "replies_per_hour"),
    "Size and cost": ("weights_mb", "peak_memory_mb", "parameters", "cpu_s_per_reply", "cost_per_1k"),
}  # fmt: skip
EMPTY = (
    '<div class="empty"><h3>No report yet</h3><p>A report compares models on the same conversations: how often each '
    "answers correctly, how fast it is, and what it costs.</p>{how}</div>"
)
_INTERVAL = re.compile(r"\(95% [^)]*\)")
_HOW_OWNER = (
    "<p>Open “New evaluation” above, choose models and conversations, and press Start. A run that is distilled with "
    "test data makes its report by itself.</p>"
)
_HOW_VISITOR = "<p>The owner of this page has not finished one. Come back later.</p>"


def empty_html(owner: bool) -> str:
    return EMPTY.format(how=_HOW_OWNER if owner else _HOW_VISITOR)


def alert_html(words: str) -> str:
    return f'<div class="notice" role="alert">{escape(words)}</div>' if words else ""


def count(number: int, word: str) -> str:
    return f"{number:,} {word}" + ("" if number == 1 else "s")


def summary_html(report: dict[str, Any]) -> str:
    """What the numbers allow to be said, and on what they stand."""
    data = report["data"]
    sentences = (_INTERVAL.sub(r"<small>\g<0></small>", escape(words)) for words in report["verdicts"])
    said = "".join(f"<li>{words}</li>" for words in sentences)
    said = said or "<li>One model alone, or nothing to score by: there is nothing to compare.</li>"
    models = "".join(
        f"<li><b>{escape(name)}</b>{_role_words(report, model)}</li>" for model, name in name_of(report).items()
    )
    return (
        f'<p class="small">{count(data["turns"], "turn")} of {count(data["conversations"], "conversation")}, '
        f"{escape(day(report['created']))} UTC</p>"
        f'<ul class="verdicts">{said}</ul>{_judge_html(report)}'
        '<details class="small"><summary>How to read this</summary>'
        "<p>A <b>turn</b> is one message of the customer and the reply to it. Behind each difference stands the range in "
        "which it lies with 95% certainty, and <b>p</b>: how likely a difference this large is by chance alone. From 0.05 "
        "on, no difference is claimed.</p>"
        f"<ul>{models}</ul></details>"
    )


def _judge_html(report: dict[str, Any]) -> str:
    """What a model as judge says, apart from what was measured."""
    said = "".join(f"<li>{escape(words)}</li>" for words in judged.sentences(report.get("judge"), name_of(report)))
    if not said:
        return ""
    return f"<details><summary>{judged.TITLE}</summary><p>{judged.MEANING}</p><ul>{said}</ul></details>"


def _role_words(report: dict[str, Any], model: str) -> str:
    words = report.get("roles", {}).get(model, "")
    full = "" if words else model
    return f": {escape(words or full)}" if words or full else ""


def table_html(report: dict[str, Any]) -> str:
    """A line for each figure, a column for each model, so that it can be read on a phone."""
    rows, columns = report["rows"], used_columns(report["rows"])
    names = name_of(report)
    head = "".join(f'<th scope="col" title="{escape(row["model"])}">{escape(names[row["model"]])}</th>' for row in rows)
    known = {key for keys in SECTIONS.values() for key in keys}
    sections = {**SECTIONS, "Other": tuple(column.key for column in columns if column.key not in known)}
    body = ""
    for title, keys in sections.items():
        lines = [column for column in columns if column.key in keys]
        if lines:
            body += f'<tbody><tr><th colspan="{len(rows) + 1}" scope="rowgroup"><span>{title}</span></th></tr>'
            body += "".join(_line(column, rows) for column in lines) + "</tbody>"
    meanings = "".join(f"<dt>{escape(column.title)}</dt><dd>{escape(column.meaning)}</dd>" for column in columns)
    small = "".join(f"<li>{escape(words)}</li>" for words in notes(report))
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Results of each model">'
        f'<table style="width: {10 + 13 * len(rows)}rem; min-width: {6 + 5.5 * len(rows):.0f}rem; max-width: 100%"><thead><tr><th scope="col">{count(len(rows), "model")}</th>{head}</tr></thead>{body}</table></div>'
        '<p class="small">The small figures are 95% intervals: the range in which the true value most likely lies. Models '
        "whose accuracy intervals overlap share a rank.</p>"
        f'<details class="small"><summary>What each line means</summary><dl>{meanings}</dl></details>'
        f'<details class="small"><summary>How it was measured</summary><ul>{small}</ul></details>'
    )


def _line(column: Column, rows: Sequence[dict[str, Any]]) -> str:
    cells = ""
    for row in rows:
        value, _, interval = column.cell(row).partition(" (")
        small = f"<small>{escape(interval.rstrip(')'))}</small>" if interval else ""
        cells += f"<td>{escape(value)}{small}</td>"
    return f'<tr><th scope="row" title="{escape(column.meaning)}">{escape(column.title)}</th>{cells}</tr>'


# One conversation, side by side.


def conversation_html(
    report: dict[str, Any], places: Sequence[int], found: set[int], models: Sequence[str], against: str
) -> str:
    """All turns of a conversation; those that were not asked for are folded. `against`: a model, `reference` or
    nothing: with what the replies are compared word by word."""
    turns, names = report["conversations"], name_of(report)
    first = turns[places[0]]
    head = f"<h3>{escape(first['conversation'])}"
    head += f' <span class="tag">{escape(first["intent"])}</span></h3>' if first["intent"] else "</h3>"
    return head + "".join(_turn(turns[place], place in found, models, names, against) for place in places)


def _turn(turn: dict[str, Any], wanted: bool, models: Sequence[str], names: dict[str, str], against: str) -> str:
    other = turn["replies"][against]["text"] if against in turn["replies"] else None
    if against == "reference":
        other = turn["reference"]
    replies = "".join(_reply(turn, model, names[model], None if model == against else other) for model in models)
    reference = turn["reference"]
    gold = f'<div class="said reference"><h5>Reference</h5><p>{escape(reference)}</p></div>' if reference else ""
    if not turn["facts"] and reference:
        gold = gold.replace("</p></div>", '</p><p class="small">It names no fact to check.</p></div>')
    return (
        f'<details class="turn"{" open" if wanted else ""}><summary><span class="number">Turn {turn["turn"]}</span> '
        f'<span class="query">{escape(turn["query"])}</span></summary>'
        f'<div class="asked"><div class="said customer"><h5>Customer</h5><p>{escape(turn["query"])}</p></div>{gold}</div>'
        f'<div class="replies">{replies}</div></details>'
    )


_JUDGED = {True: ("right", "✓ correct"), False: ("wrong", "✗ not correct"), None: ("open", "not judged")}


def _reply(turn: dict[str, Any], model: str, name: str, other: str | None) -> str:
    reply = turn["replies"][model]
    kind, words = _JUDGED[reply["correct"]]
    text = reply["text"].strip()
    said = mark(text, other) if other else escape(text)
    facts = facts_of(turn, reply)
    items = [f'<li class="stated">✓ {escape(fact)}</li>' for fact in facts["stated"]]
    items += [f'<li class="missing">✗ left out: {escape(fact)}</li>' for fact in facts["missing"]]
    items += [f'<li class="missing">✗ must not say: {escape(fact)}</li>' for fact in facts["forbidden"]]
    return (
        f'<article class="said {kind}"><h5>{escape(name)} <span class="{kind}">{words}</span></h5>'
        f"<p>{said or '<i>(no text)</i>'}</p>"
        + (f'<ul class="facts" aria-label="Facts">{"".join(items)}</ul>' if items else "")
        + "</article>"
    )


def position_html(place: int, conversations: int, turns: int, of: int) -> str:
    """Where one is among the conversations that pass the filters; `of`: turns of the whole report."""
    if not conversations:
        return '<p role="status"><b>Nothing matches.</b> Widen the filters.</p>'
    matching = "" if turns == of else f", {turns:,} of {of:,} turns match"
    return f'<p role="status">Conversation <b>{place + 1:,}</b> of <b>{conversations:,}</b>{matching}</p>'


# Under way.


def work_html(entry: Entry, watch: Watch, models: Sequence[str], reason: str) -> str:
    """An evaluation that waits, works or ended early."""
    words = {
        "queued": "It waits for its turn: one piece of work at a time, or each would slow the other down.",
        "running": "You can close this page: it goes on, and is here when you come back.",
        "failed": "It failed. What was answered so far is kept; Go on starts from there.",
        "stopped": "It was stopped. What was answered so far is kept; Go on starts from there.",
    }[entry.state]
    body = ""
    if entry.state in UNDER_WAY:
        body = _bar(watch, entry.state == "queued")
    elif reason:
        body = f'<div class="notice" role="alert">{escape(reason)}</div>'
    listed = "".join(f"<li>{escape(note)}</li>" for note in watch.notes[-5:])
    said = f'<ul class="small">{listed}</ul>' if listed else ""
    compared = escape(", ".join(models))
    return f'<div class="work {entry.state}"><h3>{escape(entry.label)}</h3><p class="small">Models: {compared}</p>{body}<p class="small">{words}</p>{said}</div>'


def _bar(watch: Watch, waits: bool) -> str:
    bar = watch.bar
    if bar is None or bar.final:
        words = "Waiting" if waits else "Scoring, or preparing the next step" if bar else "Getting ready"
        return (
            f'<p>{words}…</p><progress aria-label="{words}"></progress><p class="small">{_seconds(watch.seconds)}</p>'
        )
    return (
        f"<p>{escape(bar.label)}: {bar.done:,} of {bar.total:,} {escape(bar.unit)}</p>"
        f'<progress max="{bar.total}" value="{bar.done}" aria-label="{escape(bar.label)}"></progress>'
        f'<p class="small">{_rate(bar)}{_seconds(watch.seconds)}</p>'
    )


def _rate(bar: Bar) -> str:
    parts = [f"{bar.rate:,.1f} {escape(bar.unit)} a second"] if bar.rate else []
    parts += [f"about {in_time(bar.left_s)} left in this step"] if bar.left_s else []
    return "".join(f"{part} · " for part in parts)


def _seconds(seconds: float | None) -> str:
    return "just started" if seconds is None else f"under way for {in_time(seconds)}"


def in_time(seconds: float) -> str:
    if seconds < 60:
        return f"{max(seconds, 1):.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def elsewhere_html(entries: Sequence[Entry]) -> str:
    """One line for what is under way while another report is looked at."""
    titles = ", ".join(escape(entry.title) for entry in entries)
    return f'<p class="small elsewhere">Under way: {titles}. Pick it above to watch it.</p>' if entries else ""
