"""A report in three forms: `report.json` (all of it), `report.md`, and a self-contained `report.html`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from distiller.schema import write_text

Formatter = Callable[[Any, dict[str, Any]], str]


def _percent(value: Any, row: dict[str, Any]) -> str:
    return f"{value:.1%}"


def _interval(key: str, scale: float, digits: int, unit: str = "") -> Formatter:
    def show(value: Any, row: dict[str, Any]) -> str:
        low, high = row[f"{key}_ci"]
        return f"{value * scale:.{digits}f}{unit} ({low * scale:.{digits}f}–{high * scale:.{digits}f})"

    return show


def _plain(digits: int, unit: str = "", divide: float = 1.0) -> Formatter:
    return lambda value, row: f"{value / divide:,.{digits}f}{unit}"


#: (key, title, how it is shown, what it means) of the report's table, in order.
COLUMNS: tuple[tuple[str, str, Formatter, str], ...] = (
    ("rank", "rank", _plain(0), "1 + the number of models whose accuracy interval lies wholly above; shared when they overlap"),
    ("accuracy", "accuracy", _interval("accuracy", 100, 1, "%"), "share of judged turns that are correct; 95% interval, Wilson's, clustered by conversation"),
    ("retention", "of teacher's", _percent, "accuracy divided by the teacher's"),
    ("improvement", "over baseline", lambda v, r: f"{v * 100:+.1f} pt", "accuracy less the baseline's"),
    ("bleu", "BLEU", _interval("bleu", 1, 1), "overlap of words and their sequences with the reference replies, 0 to 100 (corpus BLEU, sacrebleu)"),
    ("chrf", "chrF", _plain(1), "overlap of letter sequences with the reference replies, 0 to 100 (corpus chrF2, sacrebleu)"),
    ("embedding_similarity", "similarity", _interval("embedding_similarity", 1, 3), "likeness in meaning to the reference replies, 1 being the same: mean cosine of sentence vectors"),
    ("teacher_bleu", "BLEU to teacher", _plain(1), "corpus BLEU against the teacher's replies to the same turns, 0 to 100"),
    ("teacher_similarity", "sim. to teacher", _plain(3), "mean cosine with the teacher's replies"),
    ("free_accuracy", "free accuracy", _percent, "accuracy with the model's own earlier replies as history"),
    ("ttft_p50_s", "TTFT p50", _plain(3, " s"), "time to first token: median seconds until the first text, one reply at a time"),
    ("latency_p50_s", "reply p50", _plain(2, " s"), "median seconds of a whole reply, one at a time, retrieval included: half of the replies are faster"),
    ("latency_p95_s", "reply p95", _plain(2, " s"), "95th percentile of it: one reply in twenty takes longer"),
    ("tokens_per_s", "tokens/s", _plain(0), "tokens (pieces of words) written a second, one reply at a time"),
    ("replies_per_hour", "replies/h", _plain(0), "replies an hour with many turns at once"),
    ("cpu_s_per_reply", "CPU s/reply", _plain(2), "processor seconds a reply, one at a time"),
    ("weights_mb", "weights MB", _plain(0), "size of the model's weight files on disk"),
    ("peak_memory_mb", "peak MB", _plain(0), "largest resident memory of a fresh process that loads the model and answers"),
    ("parameters", "parameters", _plain(1, "M", 1e6), "numbers that the model has learned, in millions"),
    ("cost_per_1k", "$ per 1,000", _plain(4), "USD for 1,000 replies: price of the machine-hour over the replies an hour, or the API's token price"),
    ("n", "turns judged", _plain(0), "turns with something to be judged by"),
)  # fmt: skip


def cell(key: str, row: dict[str, Any]) -> str:
    """The shown text of one value; a dash where it is unknown."""
    show = next(column[2] for column in COLUMNS if column[0] == key)
    return "–" if row.get(key) is None else show(row[key], row)


def write_report(report: dict[str, Any], folder: Path) -> Path:
    """The JSON is written last: where it is, the other two are."""
    write_text(folder / "report.md", to_markdown(report))
    write_text(folder / "report.html", to_html(report))
    path = folder / "report.json"
    write_text(path, json.dumps(report, indent=1, ensure_ascii=False, default=list))
    return path


def used_columns(rows: Sequence[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """(key, title, meaning) of the columns in which some row has a value."""
    return [(key, title, words) for key, title, _, words in COLUMNS if any(row.get(key) is not None for row in rows)]


def notes(report: dict[str, Any]) -> list[str]:
    data, settings = report["data"], report["settings"]
    kinds = {
        "facts": "A turn is correct when every fact of its reference is stated and no forbidden one is.",
        "intent": "The data has no facts: a turn counts as correct when the nearest training reply has its intent.",
        None: f"No accuracy: {report['accuracy_note']}.",
    }
    result = [
        f"{data['turns']} turns of {data['conversations']} conversations (sha256 {data['sha256'][:12]}), greedy, at most "
        f"{settings['max_tokens']} tokens a reply, reference history.",
        kinds[report["accuracy_kind"]],
        f"Times: one stream in a process of its own over {settings['timed_turns']} turns; replies an hour with "
        f"{report['at_once']} turns at once. Cost: {settings['machine_hour_usd']} USD a machine-hour.",
        f"BLEU signature: {report['rows'][0]['bleu_signature']}. Similarity: {report['embedding_model']}"
        + (
            f"; {report['embedding_truncated_texts']} texts were longer than it reads."
            if report["embedding_truncated_texts"]
            else "."
        ),
    ]
    shares, names = report["batch_dependent"], labels(report["rows"])
    if any(shares.values()):
        shown = ", ".join(f"{names[name]} {share:.0%}" for name, share in shares.items())
        result.append(f"Replies that came out differently alone than in their batch (rounding): {shown}.")
    return result


def to_markdown(report: dict[str, Any]) -> str:
    rows, columns, names = report["rows"], used_columns(report["rows"]), labels(report["rows"])
    lines = [f"# {report['title']}", "", f"{report['created']}", ""]
    lines += [f"- {words}" for words in report["verdicts"]]
    lines += ["", "| | " + " | ".join(names[row["model"]] for row in rows) + " |", "|---|" + "---:|" * len(rows)]
    lines += [f"| {title} | " + " | ".join(cell(key, row) for row in rows) + " |" for key, title, _ in columns]
    lines += ["", "Intervals are 95%; a conversation is one cluster.", ""]
    lines += [f"- {words}" for words in notes(report)]
    lines += ["", "| column | meaning |", "|---|---|"] + [f"| {title} | {words} |" for _, title, words in columns]
    lines += [
        "",
        "## Paired tests",
        "",
        "| metric | models | difference | 95% | p | p (Holm) |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for pair in report["comparisons"]:
        low, high = pair["ci"]
        both = f"{names[pair['a']]} − {names[pair['b']]}"
        lines.append(
            f"| {pair['metric']} | {both} | {pair['difference']:+.3f} | {low:+.3f} to {high:+.3f} | "
            f"{pair['p']:.4f} | {pair['p_adjusted']:.4f} |"
        )
    return "\n".join(lines) + "\n"


def labels(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Model → what it is called among `rows`: its role, or where that is not its alone, its name."""
    roles = [row["role"] for row in rows]
    return {
        row["model"]: row["role"] if row["role"] and roles.count(row["role"]) == 1 else row["model"] for row in rows
    }


def to_html(report: dict[str, Any]) -> str:
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    environment.globals |= {"cell": cell}
    template = environment.get_template("report.html.jinja")
    return template.render(
        report=report,
        columns=used_columns(report["rows"]),
        labels=labels(report["rows"]),
        notes=notes(report),
        plots=_plots(report),
    )


def _plots(report: dict[str, Any]) -> list[str]:
    """HTML of the charts; the first one carries the plotting library, so that the file needs nothing else."""
    from evals.charts import charts

    return [
        figure.to_html(full_html=False, include_plotlyjs=index == 0, config={"displaylogo": False})
        for index, figure in enumerate(charts(report))
    ]
