"""Below the leaderboard: people's votes on their own, pair by pair, and as files to take away."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any

import gradio as gr

from distiller.errors import DistillerError
from evals.labels import ROLE_LABELS, labels
from evals.ratings_export import FORMS, PAIR_COLUMNS, Ratings

#: (intent, turn, request) → the votes that this reader may see. Raises DistillerError.
Read = Callable[[str | None, int | None, gr.Request], Ratings]

KINDS = {
    "csv": ("CSV", "csv", "text/csv"),
    "json": ("JSON", "json", "application/json"),
    "html": ("Web page", "html", "text/html"),
    "markdown": ("Markdown", "md", "text/markdown"),
}
WORDS = (
    "Who wins against whom, by people's votes. “Equally long” is the win rate with the length of the replies taken out: people "
    "tend to prefer the longer one. Each interval is that of its pair alone: of many pairs, one in twenty is off by chance."
)
#: Made in the browser: a file for each visitor who asks would stay on the server.
SAVE = """
(text, name, kind) => {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([text], {type: kind}));
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
}
"""

CSS = """
#pairs table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
#pairs .scroll { overflow-x: auto; }
#pairs th, #pairs td { padding: 4px 10px; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--border-color-primary); }
#pairs th:nth-child(-n+2), #pairs td:nth-child(-n+2) { text-align: left; }
#pairs th[title] { cursor: help; text-decoration: underline dotted; }
#vote-files { gap: 8px; } #vote-files button { width: auto !important; flex: 0 0 auto; }
"""


def pairs_html(ratings: Ratings) -> str:
    """A table; what there is to say beside it, below."""
    names = labels([{"model": model, "role": None} for model in ratings.board["model"]], ROLE_LABELS)
    rows = [
        row | {side: names.get(row[side], row[side]) for side in ("model_a", "model_b")} for row in ratings.pair_rows()
    ]
    notes = "".join(f"<li>{escape(note)}</li>" for note in ratings.notes)
    if not rows:
        return f'<p class="small">No votes that count yet.</p><ul class="small">{notes}</ul>'
    head = "".join(f'<th title="{escape(meaning)}">{escape(title)}</th>' for title, _, meaning in PAIR_COLUMNS)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(show(row))}</td>' for _, show, _ in PAIR_COLUMNS)}</tr>" for row in rows
    )
    table = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    return f'<p class="small">{WORDS}</p>{table}<ul class="small">{notes}</ul>'


def build_votes_pane(read: Read, filters: list[Any]) -> None:
    """`filters`: the components with the intent and the turn that are chosen. Computed when it is opened."""

    def show(intent: str | None, turn: int | None, request: gr.Request) -> str:
        try:
            return pairs_html(read(intent or None, turn or None, request))
        except DistillerError as error:
            return f'<p class="notice">{escape(str(error))}</p>'

    def write(form: str) -> Callable[..., tuple[str, str, str]]:
        _, ending, kind = KINDS[form]

        def written(intent: str | None, turn: int | None, request: gr.Request) -> tuple[str, str, str]:
            try:
                return FORMS[form](read(intent or None, turn or None, request)), f"ratings.{ending}", kind
            except DistillerError as error:
                raise gr.Error(str(error), print_exception=False) from None

        return written

    quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    with gr.Accordion("Votes, head to head", open=False, elem_id="head-to-head") as pane:
        table = gr.HTML(elem_id="pairs")
        made = [gr.Textbox(visible=False) for _ in range(3)]
        with gr.Row(elem_id="vote-files"):
            for form, (words, _, _) in KINDS.items():
                button = gr.Button(f"Ratings as {words}", size="sm", min_width=0)
                button.click(write(form), filters, made, **quiet).success(
                    None, made, None, js=SAVE, api_visibility="private"
                )
    gr.on([pane.expand, *(each.select for each in filters)], show, filters, table, **quiet)
