"""Every measured model in one table a data set: scores, people's votes and times, with intervals and shared ranks."""

from __future__ import annotations

import base64
import html
import json
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import gradio as gr

from distiller.errors import DistillerError
from evals.columns import COLUMNS, Column
from evals.contestants import ROLE_WORDS
from evals.labels import ROLE_LABELS, labels
from evals.leaderboard import Board, boards, with_votes
from evals.leaderboard_charts import of_leaderboard
from evals.leaderboard_export import FORMS, Table
from evals.ratings_export import Ratings
from ui.access import may_see, may_see_model, visitor_of
from ui.votes_pane import CSS as VOTES_CSS
from ui.votes_pane import KINDS, build_votes_pane

Shown = Callable[[str], bool]


class Votes(Protocol):
    """What people's votes say, as `evals.live_ratings` has it. Raises DistillerError where they cannot be read."""

    def rows(self, intent: str | None, turn: int | None, shown: Shown | None) -> list[dict[str, Any]]: ...

    def ratings(self, intent: str | None, turn: int | None, shown: Shown | None) -> Ratings: ...


LOADING = "Reading the reports …"
EMPTY = (
    "**No model has been measured yet.** Start with `make demo`, or with "
    "`python -m distiller run configs/quickstart.yaml` and then `python -m evals run --run quickstart`. "
    "When it is done, press Refresh."
)
ACCURACY_WORDS = {
    "facts": "a reply is correct when it states every fact that the question asks for, and nothing forbidden",
    "intent": "a reply is correct when the known reply most like it answers the same intent",
}
HINT = "Point at a column’s title, or tap it, to read here what it means. A click on it offers to sort."
WIDTHS = {
    "model": 150,
    "rank": 80,
    "n": 90,
    "votes": 80,
    "accuracy": 160,
    "bleu": 140,
    "embedding_similarity": 170,
    "rating": 160,
    "win_rate": 160,
}
MODEL = Column(
    "model", "model", str, "Its part in a run, and the run where there are several; else the model's own name."
)

CSS = (
    """
#board-filters { align-items: flex-end; gap: 12px; }
#board-filters > .form { flex: 1 1 100%; }
#refresh { width: auto !important; align-self: flex-start; }
#leaderboard [role="grid"] * { font-family: var(--font) !important; font-variant-numeric: tabular-nums; }
/* Gradio 6.31 takes pinned_columns and pins nothing. */
#leaderboard [aria-colindex="1"] { position: sticky; left: 0; z-index: 2; background: var(--background-fill-secondary);
  border-right: 1px solid var(--border-color-primary); }
#leaderboard [role="columnheader"] { cursor: help; }
#board-hint { min-height: 4.5em; margin: 0 0 8px; font-size: var(--text-sm); color: var(--body-text-color-subdued); }
.board-note { margin: 0 0 4px; max-width: 110ch; }
.board-note a { padding: 0 !important; }
.board-note a, .definitions summary { color: var(--link-text-color); }
.definitions summary { cursor: pointer; }
.definitions dl { display: grid; grid-template-columns: minmax(8em, max-content) 1fr; gap: 6px 18px; margin: 12px 0 0; max-width: 90ch; }
.definitions dt { font-weight: 600; } .definitions dd { margin: 0; color: var(--body-text-color-subdued); }
#board-charts { gap: 20px; }
#board-charts .plot-container text { fill: var(--body-text-color) !important; }
#board-charts .hoverlayer text { fill: #fff !important; }
#board-charts .modebar-container { display: none; }
@media (max-width: 640px) {
  .definitions dl { grid-template-columns: 1fr; gap: 0; } .definitions dd { margin-bottom: 10px; }
  #board-hint { min-height: 7.5em; }
}
"""
    + VOTES_CSS
)

# The table's titles are plain text to Gradio: their definitions are hung on here, for the pointer (title), for screen
# readers (aria-description), and for keyboard and touch (the line below the table).
EXPLAIN_HEADERS = """
const meanings = JSON.parse(element.querySelector('#board-hint').dataset.meanings);
const box = document.querySelector('#board');
const explain = () => box.querySelectorAll('[role=columnheader]').forEach((cell) => {
  const title = (cell.title || '').trim();
  if (!(title in meanings)) return;
  cell.dataset.column = title;
  cell.title = meanings[title];
  cell.setAttribute('aria-description', meanings[title]);
});
const say = (event) => {
  const cell = event.target.closest && event.target.closest('[role=columnheader]');
  if (!cell || !cell.dataset.column) return;
  const name = document.createElement('b');
  name.textContent = cell.dataset.column;
  element.querySelector('#board-hint').replaceChildren(name, ': ' + meanings[cell.dataset.column]);
};
// Gradio sorts from a small menu that only a pointer finds: a click on the title or the Enter key opens it as well.
const openMenu = (event) => {
  const cell = event.target.closest('[role=columnheader]');
  if (!cell || event.target.closest('button') || (event.type === 'keydown' && event.key !== 'Enter')) return;
  setTimeout(() => {
    cell.querySelector('.cell-menu-button').click();
    if (event.type === 'keydown') setTimeout(() => document.querySelector('[role=menuitem]')?.focus(), 50);
  });
};
new MutationObserver(explain).observe(box, {childList: true, subtree: true});
for (const kind of ['pointerover', 'focusin']) box.addEventListener(kind, say);
for (const kind of ['click', 'keydown']) box.addEventListener(kind, openMenu);
explain();
"""


def definitions(columns: Iterable[Column] = COLUMNS) -> str:
    """An HTML list of what each column and each part in a run means."""
    terms = [(column.title, column.meaning) for column in columns]
    terms += [(ROLE_LABELS[role], f"In the column “model”: {words}.") for role, words in ROLE_WORDS.items()]
    return f"<dl>{''.join(f'<dt>{_e(term)}</dt><dd>{_e(meaning)}</dd>' for term, meaning in terms)}</dl>"


def columns_of(rows: Sequence[dict[str, Any]], of_all: Sequence[dict[str, Any]]) -> list[Column]:
    """Those in which some row has a value, chosen turns or not: a filter does not make columns come and go."""
    return [MODEL, *(c for c in COLUMNS if any(row[c.key] is not None for row in (*rows, *of_all)))]


def to_table(rows: Sequence[dict[str, Any]], columns: Sequence[Column]) -> dict[str, Any]:
    """The form of gr.Dataframe that sorts by the values and shows the words."""
    names = labels(rows, ROLE_LABELS)
    named = [row | {"model": names[row["model"]]} for row in rows]
    return {
        "headers": [column.title for column in columns],
        "data": [[row[column.key] for column in columns] for row in named],
        "metadata": {"display_value": [[column.cell(row) for column in columns] for row in named]},
    }


def note(board: Board | None, rows: Sequence[dict[str, Any]], intent: str | None, turn: int | None) -> str:
    """HTML above the table: what was measured, what the filter chose, and the table to take away."""
    words: list[str] = []
    if board is None:
        words.append("No model has been measured yet: this is what people's votes say.")
    else:
        data = board.newest
        kinds = {row["accuracy_kind"] for row in rows} - {None}
        words.append(
            f"{data.turns:,} questions in {data.conversations:,} conversations, the same for every model; "
            f"last measured {data.created[:10]}."
        )
        words += [
            f"{ACCURACY_WORDS.get(kind, f'accuracy is scored by {kind}').capitalize()}." for kind in sorted(kinds)
        ]
    if intent or turn:
        chosen = " and ".join(
            filter(None, (f"intent “{intent.replace('_', ' ')}”" if intent else "", f"turn {turn}" if turn else ""))
        )
        most = max((row["n"] or 0 for row in rows), default=0)
        words.append(
            f"<b>Only {_e(chosen)}</b>: {most} turns are judged, and accuracy, rank and what follows from them are of "
            "these. Times, memory and cost are of all turns; BLEU, chrF and similarity are known of all turns only, and "
            f"votes are those {' '.join(filter(None, ('on this intent' if intent else '', _after(turn) if turn else '')))}."
        )
    if board is not None and (judged := board.judge_words):
        said = "".join(f"<li>{_e(sentence)}</li>" for sentence in judged)
        words.append(
            f"<details><summary>What a model as judge says (no person’s vote)</summary><ul>{said}</ul></details>"
        )
    if os.environ.get("SPACE_ID"):
        words.append("A restart of this Space may lose what was measured here; see About.")
    table = Table(board, rows, intent, turn)
    links = f"Download this table: {' · '.join(_link(form, write(table)) for form, write in FORMS.items())}"
    return f'<div class="board-note small">{" ".join(words)} {links}</div>'


def build_leaderboard_tab(page: gr.Blocks, people: Votes | None = None, tab: gr.Tab | None = None) -> None:
    """`people`: what their votes say. `tab`: where this stands; opening it shows what is new."""

    def show(data_set: str | None, intent: str | None, turn: int | None, request: gr.Request) -> list[Any]:
        visible = may_see(visitor_of(request))
        found, troubles = boards(visible)
        board = next((board for board in found if board.key == data_set), found[0] if found else None)
        intent = intent if board and intent in board.intents() else None
        turn = turn if board and turn in board.turns() else None
        votes: list[dict[str, Any]] = []
        if people is not None:
            try:
                votes = people.rows(intent, turn, may_see_model(visitor_of(request)))
            except DistillerError as error:
                troubles = [*troubles, f"The votes cannot be shown: {error}"]
        rows = with_votes(board.rows(intent, turn) if board else [], votes)
        columns = columns_of(rows, board.rows() if board else [])
        if not rows:
            troubles = [*troubles, EMPTY]
        figures = of_leaderboard(rows, list(labels(rows, ROLE_LABELS).values()))
        return [
            gr.Markdown("\n\n".join(troubles), visible=bool(troubles)),
            gr.Column(visible=bool(rows)),
            gr.Dropdown(_data_sets(found), value=board.key if board else None, visible=bool(found)),
            gr.Dropdown(
                _choices("all intents", board.intents() if board else []), value=intent or "", visible=bool(found)
            ),
            gr.Dropdown(_choices("all turns", board.turns() if board else []), value=turn or "", visible=bool(found)),
            note(board, rows, intent, turn),
            gr.Dataframe(
                to_table(rows, columns),
                datatype=["str" if column.key == "model" else "number" for column in columns],
                column_widths=[f"{WIDTHS.get(column.key, 110)}px" for column in columns],
            ),
            *(gr.Plot(figure, visible=figure is not None) for figure in figures),
        ]

    with gr.Column(elem_id="board"):
        notice = gr.Markdown(LOADING, elem_id="leaderboard-notice")
        with gr.Column(visible=False) as results:
            with gr.Row(elem_id="board-filters"):
                data_set = gr.Dropdown([], label="Data set", scale=2, min_width=240)
                intent = gr.Dropdown([], label="What the customer wants (intent)", min_width=130)
                turn = gr.Dropdown([], label="Question number (turn)", min_width=130)
            above = gr.HTML()
            table = gr.Dataframe(
                interactive=False,
                show_label=False,
                label="Leaderboard",
                show_search="search",
                pinned_columns=1,
                wrap=True,
                buttons=["fullscreen", "copy"],
                elem_id="leaderboard",
            )
            meanings = json.dumps({column.title: column.meaning for column in (MODEL, *COLUMNS)})
            gr.HTML(
                f'<p id="board-hint" data-meanings="{_e(meanings)}">{HINT}</p>'
                f'<details class="definitions"><summary>What every column means</summary>{definitions((MODEL, *COLUMNS))}</details>',
                js_on_load=EXPLAIN_HEADERS,
            )
            with gr.Row(elem_id="board-charts"):
                plots = [gr.Plot(show_label=False, visible=False, min_width=320) for _ in range(3)]
            if people is not None:
                build_votes_pane(
                    lambda intent, turn, request: people.ratings(intent, turn, may_see_model(visitor_of(request))),
                    [intent, turn],
                )
        button = gr.Button("Refresh", size="sm", min_width=0, elem_id="refresh")
    filters = [data_set, intent, turn]
    opened = [tab.select] if tab is not None else []
    gr.on(
        [page.load, button.click, *opened, *(each.select for each in filters)],
        show,
        filters,
        [notice, results, *filters, above, table, *plots],
        queue=False,
        show_progress="hidden",
        api_visibility="private",
    )


def _after(turn: int) -> str:
    return f"cast after {turn} turn{'s' if turn > 1 else ''}"


def _data_sets(found: Sequence[Board]) -> list[tuple[str, str]]:
    names = [board.name for board in found]
    return [
        (
            board.name
            if names.count(board.name) == 1
            else f"{board.name} ({board.key[:6]}, {board.newest.turns} questions)",
            board.key,
        )
        for board in found
    ]


def _choices(all_words: str, values: Sequence[Any]) -> list[tuple[str, Any]]:
    return [(all_words, ""), *((str(value).replace("_", " "), value) for value in values)]


def _link(form: str, text: str) -> str:
    words, ending, kind = KINDS[form]
    coded = base64.b64encode(text.encode()).decode()
    return f'<a download="leaderboard.{ending}" href="data:{kind};base64,{coded}">{words}</a>'


def _e(text: str) -> str:
    return html.escape(text, quote=True)
