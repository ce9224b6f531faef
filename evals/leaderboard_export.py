"""The leaderboard for others: CSV and JSON with every key, a page of its own, Markdown for a model card.

Every form takes the same `Table`: the rows as `evals.leaderboard` makes them, and what they are of.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.columns import Column, used_columns
from evals.labels import ROLE_LABELS, labels
from evals.leaderboard import KEYS, Board

TITLE = "Leaderboard"


@dataclass(frozen=True)
class Table:
    """`board` is None where nothing was measured and votes are all there is. `intent`, `turn`: None for all."""

    board: Board | None
    rows: Sequence[dict[str, Any]]
    intent: str | None = None
    turn: int | None = None

    @property
    def notes(self) -> list[str]:
        words = ["Intervals are 95%; ranks are shared where intervals overlap."]
        if self.board:
            data = self.board.newest
            words.insert(
                0,
                f"{self.board.name}: {data.turns:,} questions in {data.conversations:,} conversations, the same for "
                f"every model (sha256 {self.board.key[:12]}); last measured {data.created[:10]}.",
            )
        if self.intent:
            words.append(f"Accuracy, rank and votes: only the intent {self.intent}.")
        if self.turn:
            words.append(f"Accuracy and rank: only turn {self.turn}. Votes: those on {self.turn} turn(s).")
        return words

    def cells(self) -> tuple[list[Column], list[list[str]]]:
        """The columns in use, and a line for each model with its name before them."""
        columns, names = used_columns(self.rows), labels(self.rows, ROLE_LABELS)
        return columns, [[names[row["model"]], *(column.cell(row) for column in columns)] for row in self.rows]


def to_csv(table: Table) -> str:
    """Every key of a row, intervals as two columns."""
    out = io.StringIO()
    names = [
        name for key in KEYS for name in ((f"{key[:-3]}_low", f"{key[:-3]}_high") if key.endswith("_ci") else (key,))
    ]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    for row in table.rows:
        writer.writerow(v for key in KEYS for v in ((row[key] or (None, None)) if key.endswith("_ci") else (row[key],)))
    return out.getvalue()


def to_json(table: Table) -> str:
    data = {"name": table.board.name, "sha256": table.board.key} if table.board else None
    value = {"data": data, "intent": table.intent, "turn": table.turn, "rows": list(table.rows)}
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def to_markdown(table: Table) -> str:
    """A section of a model card, a column for each model: there are more figures than models."""
    columns, lines = table.cells()
    heads = [""] + [line[0] for line in lines]
    text = [f"## {TITLE}", "", _markdown_row(heads), "|---|" + "---:|" * len(lines)]
    text += [_markdown_row([column.title, *(line[k] for line in lines)]) for k, column in enumerate(columns, start=1)]
    return "\n".join([*text, "", *(f"- {note}" for note in table.notes)]) + "\n"


def to_html(table: Table) -> str:
    """One file that needs no other."""
    from jinja2 import Environment, FileSystemLoader

    columns, lines = table.cells()
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    template = environment.get_template("leaderboard.html.jinja")
    return template.render(title=TITLE, columns=columns, lines=lines, notes=table.notes)


#: What `python -m evals leaderboard --format` writes, and the page hands out.
FORMS: dict[str, Callable[[Table], str]] = {
    "csv": to_csv,
    "json": to_json,
    "html": to_html,
    "markdown": to_markdown,
}


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
