"""A report in three forms: `report.json` (all of it), `report.md`, and a self-contained `report.html`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distiller.schema import write_text
from evals import judged
from evals.columns import used_columns
from evals.labels import labels


def write_report(report: dict[str, Any], folder: Path) -> Path:
    """The JSON is written last: where it is, the other two are. A judge's verdicts in the folder become its section."""
    report = report | {"judge": judged.section(report, folder)}
    write_text(folder / "report.md", to_markdown(report))
    write_text(folder / "report.html", to_html(report))
    path = folder / "report.json"
    write_text(path, json.dumps(report, indent=1, ensure_ascii=False, default=list))
    return path


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
    lines += [f"| {column.title} | " + " | ".join(column.cell(row) for row in rows) + " |" for column in columns]
    lines += ["", "Intervals are 95%; a conversation is one cluster.", ""]
    lines += [f"- {words}" for words in notes(report)]
    lines += ["", "| column | meaning |", "|---|---|"] + [
        f"| {column.title} | {column.meaning} |" for column in columns
    ]
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
    return "\n".join([*lines, *_judge_lines(report.get("judge"), names)]) + "\n"


def _judge_lines(section: dict[str, Any] | None, names: dict[str, str]) -> list[str]:
    if section is None:
        return []
    lines = ["", f"## {judged.TITLE}", "", judged.MEANING, ""]
    lines += [f"- {words}" for words in judged.sentences(section, names)]
    lines += ["", *_table(judged.COLUMNS, judged.table(section, names))]
    for row in section["agreement"]:
        titles, *counts = judged.confusion(row)
        lines += ["", *_table(titles, counts)]
    return [*lines, "", *(f"- {judged.cost_words(row)}" for row in section["rows"])]


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    shown = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in (titles, *rows)]
    return [f"| {shown[0]} |", "|---|" + "---:|" * (len(titles) - 1), *(f"| {row} |" for row in shown[1:])]


def to_html(report: dict[str, Any]) -> str:
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    template = environment.get_template("report.html.jinja")
    return template.render(
        report=report,
        columns=used_columns(report["rows"]),
        labels=labels(report["rows"]),
        notes=notes(report),
        judged=judged,
        plots=_plots(report),
    )


def _plots(report: dict[str, Any]) -> list[str]:
    """HTML of the charts; the first one carries the plotting library, so that the file needs nothing else."""
    from evals.charts import charts

    return [
        figure.to_html(full_html=False, include_plotlyjs=index == 0, config={"displaylogo": False})
        for index, figure in enumerate(charts(report))
    ]
