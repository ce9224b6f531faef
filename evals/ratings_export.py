"""The votes' leaderboard for others: a table to read, CSV, JSON, a page of its own, Markdown for a model card.

`ratings_of` takes the table of `VoteStore.votes_table`; every form shows the same board and the same notes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from distiller.runs import now
from evals.outliers import outlier_visitors, without_visitors
from evals.ratings import head_to_head, rate, rate_by

TITLE = "Ratings by votes"
FEW_VISITORS = 10
#: (title, how a row shows it, what it means).
Columns = tuple[tuple[str, Callable[[dict[str, Any]], str], str], ...]
_COUNTED: Columns = (
    ("won", lambda row: f"{row['wins']:,}", "votes for the model"),
    ("lost", lambda row: f"{row['losses']:,}", "votes for the other one"),
    ("tied", lambda row: f"{row['ties']:,}", "both equally good; counts half"),
    ("both bad", lambda row: f"{row['both_bad']:,}", "neither good; counts half"),
)
COLUMNS: Columns = (
    ("rank", lambda row: str(row["rank"]), "1 + the number of models that are surely better; shared when intervals overlap"),
    ("model", lambda row: str(row["model"]), "the model's name"),
    ("rating", lambda row: f"{row['rating']:.0f}", "Bradley–Terry strength on the Elo scale, mean 1000; 400 points ahead wins ten of eleven"),
    ("95% interval", lambda row: f"{row['low']:.0f}–{row['high']:.0f}", "percentile interval of a bootstrap, a visitor being one cluster"),
    ("win rate", lambda row: _share(row, "win_rate", "win"), "wins and half of the ties over all votes on the model; in brackets the 95% interval, a visitor being one cluster"),
    ("votes", lambda row: f"{row['votes']:,}", "votes on the model"),
    *_COUNTED,
)  # fmt: skip
PAIRS_TITLE = "Head to head"
#: As COLUMNS, of a pair that met.
PAIR_COLUMNS: Columns = (
    ("model", lambda row: str(row["model_a"]), "the model whose rates these are"),
    ("against", lambda row: str(row["model_b"]), "the other one"),
    ("win rate", lambda row: _share(row, "win_rate", "win"), "wins and half of the ties over the votes on these two; in brackets the 95% interval of this pair alone"),
    ("equally long", lambda row: _share(row, "equal_length_rate", "equal_length"), "what the win rate would be were the replies equally long: people tend to prefer the longer one"),
    ("votes", lambda row: f"{row['votes']:,}", "votes on these two"),
    *_COUNTED,
)  # fmt: skip


@dataclass(frozen=True)
class Ratings:
    """`board` as `evals.ratings.rate` makes it, with `group` a board for each value of that column; `pairs` as
    `head_to_head` makes them, of all values together."""

    board: pd.DataFrame
    pairs: pd.DataFrame
    notes: list[str]
    group: str | None = None
    created: str = ""

    def rows(self) -> list[dict[str, Any]]:
        return _records(self.board)

    def pair_rows(self) -> list[dict[str, Any]]:
        """Unknown rates are None."""
        return _records(self.pairs.astype(object).where(self.pairs.notna(), None))


def ratings_of(
    votes: pd.DataFrame,
    *,
    by: str | None = None,
    leave_out_outliers: bool = False,
    shown: Callable[[str], bool] | None = None,
) -> Ratings:
    """Rates the votes that count. `by`: a board for each value of a column, such as `intent` or `turns`. `shown`: which
    models are for the reader's eyes; the others are rated with them and left out of what is shown."""
    counted = votes[votes["counted"].astype(bool)]
    outliers = outlier_visitors(counted)
    rated = without_visitors(counted, outliers) if leave_out_outliers else counted
    board = rate_by(rated, by, cluster="visitor") if by else rate(rated, cluster="visitor")
    pairs = head_to_head(rated, cluster="visitor")
    if shown is not None:
        board = board[[shown(model) for model in board["model"]]]
        pairs = pairs[[shown(a) and shown(b) for a, b in zip(pairs["model_a"], pairs["model_b"], strict=True)]]
    notes = [_what_counts(votes, rated), _few(rated), _outliers(outliers, leave_out_outliers), *_apart(board, by)]
    return Ratings(board, pairs, [note for note in notes if note], by, now())


def to_csv(ratings: Ratings) -> str:
    return ratings.board.to_csv(index=False, lineterminator="\n")


def to_json(ratings: Ratings) -> str:
    value = {"title": TITLE, "created": ratings.created, "notes": ratings.notes, "rows": ratings.rows()}
    value["pairs"] = ratings.pair_rows()
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


def to_markdown(ratings: Ratings) -> str:
    """A section of a model card."""
    lines = [f"## {TITLE}"]
    tables = [(name, rows, COLUMNS, "|---:|---|") for name, rows in _groups(ratings)]
    if len(ratings.pairs):
        tables.append((PAIRS_TITLE, ratings.pair_rows(), PAIR_COLUMNS, "|---|---|"))
    for name, rows, columns, left in tables:
        lines += ["", *([f"### {name}", ""] if name else [])]
        lines += ["| " + " | ".join(title for title, _, _ in columns) + " |", left + "---:|" * (len(columns) - 2)]
        lines += ["| " + " | ".join(_cell(show(row)) for _, show, _ in columns) + " |" for row in rows]
    return "\n".join([*lines, "", *(f"- {note}" for note in ratings.notes)]) + "\n"


def to_html(ratings: Ratings) -> str:
    """One file that needs no other."""
    from jinja2 import Environment, FileSystemLoader

    low, high = (ratings.board[end].agg(pick) for end, pick in (("low", "min"), ("high", "max")))
    span = max(float(high - low), 1.0) if len(ratings.board) else 1.0
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    environment.globals["place"] = lambda points: f"{100 * (points - low) / span:.2f}"
    template = environment.get_template("ratings.html.jinja")
    pairs = (PAIRS_TITLE, ratings.pair_rows(), PAIR_COLUMNS)
    return template.render(title=TITLE, ratings=ratings, groups=_groups(ratings), columns=COLUMNS, pairs=pairs)


#: What `python -m evals ratings --format` writes.
FORMS: dict[str, Callable[[Ratings], str]] = {
    "csv": to_csv,
    "json": to_json,
    "html": to_html,
    "markdown": to_markdown,
}


def shown_rows(ratings: Ratings) -> list[dict[str, str]]:
    """The cells as text, for a table on a screen."""
    group = [ratings.group] if ratings.group else []
    return [
        {name: str(row[name]) for name in group} | {title: show(row) for title, show, _ in COLUMNS}
        for row in ratings.rows()
    ]


def shown_pairs(ratings: Ratings) -> list[dict[str, str]]:
    """As `shown_rows`, of the pairs."""
    return [{title: show(row) for title, show, _ in PAIR_COLUMNS} for row in ratings.pair_rows()]


def _share(row: dict[str, Any], key: str, bounds: str) -> str:
    if row[key] is None:
        return "–"
    return f"{row[key]:.1%} ({row[f'{bounds}_low']:.1%}–{row[f'{bounds}_high']:.1%})"


def _groups(ratings: Ratings) -> list[tuple[str, list[dict[str, Any]]]]:
    if ratings.group is None:
        return [("", ratings.rows())]
    parts = ratings.board.groupby(ratings.group)
    return [(f"{ratings.group}: {name}", _records(part)) for name, part in parts]


def _records(board: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in board.to_dict("records")]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _what_counts(votes: pd.DataFrame, rated: pd.DataFrame) -> str:
    words = f"{len(rated):,} votes of {rated['visitor'].nunique():,} visitors"
    apart = votes.loc[~votes["counted"].astype(bool), "why_not"].value_counts()
    if apart.empty:
        return f"{words}."
    names = {"after_reveal": "cast after the names were shown", "named": "cast with the names known"}
    names |= {
        "api": "sent by the API",
        "mcp": "sent by MCP",
        "judge": "by a model as judge",
        "leak": "on a reply that named its model",
    }
    return f"{words}; kept apart: " + ", ".join(f"{n:,} {names[str(why)]}" for why, n in apart.items()) + "."


def _few(rated: pd.DataFrame) -> str:
    visitors = rated["visitor"].nunique()
    if not 0 < visitors < FEW_VISITORS:
        return ""
    return (
        f"So few visitors cannot stand for all people: below {FEW_VISITORS} the intervals are rough, whatever the number "
        "of votes."
    )


def _outliers(outliers: pd.DataFrame, left_out: bool) -> str:
    if outliers.empty:
        return ""
    what = "are left out" if left_out else "are rated all the same"
    return f"Visitors who vote unlike all others: {len(outliers):,}; their {outliers['votes'].sum():,} votes {what}."


def _apart(board: pd.DataFrame, by: str | None) -> list[str]:
    """Which models cannot be compared, because no chain of votes links them."""
    if by or board.empty or board["component"].max() == 1:
        return []
    names = [", ".join(part["model"]) for _, part in board.groupby("component")]
    return [f"No chain of votes links these groups, so each has ratings and ranks of its own: {'; '.join(names)}."]
