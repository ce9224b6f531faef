"""The newest evaluation as one table: what each model keeps of the teacher, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from distiller.errors import DistillerError
from evals.leaderboard import leaderboard_rows

EMPTY = (
    "**No model has been evaluated yet.** Start with `make demo`, or with "
    "`python -m distiller run configs/quickstart.yaml` and then `python -m evals run --run quickstart`. "
    "When it is done, press Refresh."
)
ACCURACY_WORDS = {
    "facts": "a reply is correct when it states every fact that the question asks for, and nothing forbidden",
    "intent": "a reply is correct when the known reply nearest to it answers the same intent",
}


def _whole(value: float) -> str:
    return f"{value:,.0f}"


def _percent(value: float) -> str:
    return f"{100 * value:.0f}%"


def _points(value: float) -> str:
    return f"{100 * value:+.0f}"


def _one(value: float) -> str:
    return f"{value:,.1f}"


def _two(value: float) -> str:
    return f"{value:.2f}"


def _ms(value: float) -> str:
    return f"{1000 * value:,.0f}"


def _millions(value: float) -> str:
    return f"{value / 1e6:,.1f}"


def _dollars(value: float) -> str:
    return f"{value:.4f}" if value < 0.01 else f"{value:.2f}"


def _role(value: str) -> str:
    return value.replace("_", " ")


@dataclass(frozen=True)
class Column:
    key: str
    title: str
    words: Callable[[Any], str] = str
    interval: str | None = None
    width: int = 120


COLUMNS = (
    Column("model", "Model", width=180),
    Column("role", "Role", _role, width=110),
    Column("rank", "Rank", _whole, width=80),
    Column("accuracy", "Accuracy (95%)", _percent, "accuracy_ci", width=150),
    Column("retention", "Retention", _percent, width=110),
    Column("improvement", "Gain, points", _points, width=130),
    Column("bleu", "BLEU (95%)", _one, "bleu_ci", width=150),
    Column("chrf", "chrF", _one, width=90),
    Column("embedding_similarity", "Similarity (95%)", _two, "embedding_similarity_ci", width=160),
    Column("teacher_bleu", "BLEU to teacher", _one, width=110),
    Column("teacher_similarity", "Similarity to teacher", _two, width=120),
    Column("free_accuracy", "Accuracy, own history", _percent, width=120),
    Column("ttft_p50_s", "TTFT p50, ms", _ms, width=110),
    Column("latency_p50_s", "Latency p50, ms", _ms, width=120),
    Column("latency_p95_s", "Latency p95, ms", _ms, width=120),
    Column("tokens_per_s", "Tokens/s", _one, width=100),
    Column("replies_per_hour", "Replies/hour", _whole, width=120),
    Column("weights_mb", "Weights, MB", _whole, width=110),
    Column("peak_memory_mb", "Peak memory, MB", _whole, width=120),
    Column("parameters", "Parameters, M", _millions, width=120),
    Column("cpu_s_per_reply", "CPU s/reply", _two, width=110),
    Column("cost_per_1k", "USD per 1,000 replies", _dollars, width=120),
    Column("n", "Turns", _whole, width=90),
)


def in_words(column: Column, row: dict[str, Any]) -> str:
    """One cell as it is read: the value with its unit's digits, the interval behind it, a dash for unknown."""
    value = row.get(column.key)
    if value is None:
        return "–"
    words = column.words(value)
    interval = row.get(column.interval) if column.interval else None
    if not interval:
        return words
    low, high = (column.words(bound).rstrip("%") for bound in interval)
    return f"{words} ({low}–{high})"


def to_table(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The form of gr.Dataframe that sorts by the values and shows the words."""
    return {
        "headers": [column.title for column in COLUMNS],
        "data": [[row.get(column.key) for column in COLUMNS] for row in rows],
        "metadata": {"display_value": [[in_words(column, row) for column in COLUMNS] for row in rows]},
    }


def explanation(rows: Sequence[dict[str, Any]]) -> str:
    kinds = {row["accuracy_kind"] for row in rows if row["accuracy_kind"]}
    meaning = "; ".join(ACCURACY_WORDS.get(kind, f"scored by {kind}") for kind in sorted(kinds))
    signature = next((row["bleu_signature"] for row in rows if row["bleu_signature"]), None)
    accuracy = "the share of the turns with a correct reply" + (f" ({meaning})" if meaning else "")
    bleu = "word overlap with the reference replies, 0 to 100" + (f" (sacrebleu `{signature}`)" if signature else "")
    return (
        f"**Accuracy** is {accuracy}. **Retention** is a model's accuracy over the teacher's, **gain** its accuracy less "
        f"the undistilled baseline's. **BLEU** is {bleu}; "
        "*to teacher* it compares with the teacher's replies instead. **Similarity** is the cosine of sentence "
        "embeddings. Figures in brackets are 95% intervals; models whose intervals overlap share a rank. "
        "Times are those of one model alone on the machine, warm-up not counted."
    )


def refresh() -> tuple[Any, ...]:
    """→ table, explanation, notice: either the rows, or what to do to get some."""
    try:
        rows = leaderboard_rows()
    except DistillerError as error:
        return gr.skip(), gr.skip(), gr.Markdown(f"⚠ {error}", visible=True)
    return (
        gr.Dataframe(to_table(rows), visible=bool(rows)),
        gr.Markdown(explanation(rows), visible=bool(rows)),
        gr.Markdown(EMPTY, visible=not rows),
    )


def build_leaderboard_tab(page: gr.Blocks) -> None:
    notice = gr.Markdown(EMPTY, visible=False, elem_id="leaderboard-notice")
    table = gr.Dataframe(
        headers=[column.title for column in COLUMNS],
        datatype=["str" if column.key in {"model", "role"} else "number" for column in COLUMNS],
        column_widths=[f"{column.width}px" for column in COLUMNS],
        interactive=False,
        visible=False,
        show_label=False,
        show_search="search",
        pinned_columns=1,
        wrap=True,
        buttons=["fullscreen", "copy"],
        elem_id="leaderboard",
    )
    words = gr.Markdown(visible=False, elem_classes="small")
    button = gr.Button("Refresh", size="sm", min_width=0, elem_id="refresh")
    gr.on(
        [page.load, button.click],
        refresh,
        None,
        [table, words, notice],
        queue=False,
        show_progress="hidden",
        api_visibility="private",
    )
