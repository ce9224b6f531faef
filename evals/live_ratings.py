"""People's votes, rated while they come in: a leaderboard page is asked for more often than a vote is cast.

Votes are only ever added, so of a long table only what is new is read; and what was rated stays rated until there is
a new vote. The rating itself is `ratings.rate` over all counted votes, never an update of an older one: after any
history it equals the rating of the same votes read afresh.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pandas as pd

from distiller.errors import VoteError
from evals.ratings import rate
from evals.ratings_export import Ratings, ratings_of
from evals.votes import VoteStore

#: What rating, outliers and their notes read of a vote; `number` is its place in the table.
READ = (
    "number", "created", "visitor", "model_a", "model_b", "choice", "intent", "turns", "len_a", "len_b", "counted",
    "why_not",
)  # fmt: skip


class LiveRatings:
    """Safe for threads: those that ask at the same moment wait for one of them to do the work. Raises VoteError."""

    def __init__(self, store: VoteStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._votes = pd.DataFrame(columns=list(READ))
        self._counted = self._votes
        self._rated: dict[tuple[str | None, int | None], list[dict[str, Any]]] = {}

    def warm(self) -> None:
        """Rates what there is in the background, so that the first page after a start does not wait for it."""
        threading.Thread(target=self._quietly, daemon=True).start()

    def rows(
        self, intent: str | None = None, turn: int | None = None, shown: Callable[[str], bool] | None = None
    ) -> list[dict[str, Any]]:
        """For `leaderboard.with_votes`. `intent`: the votes on examples of it; `turn`: those cast after so many turns;
        `shown`: which models the reader may see."""
        with self._lock:
            self._refresh()
            key = intent or None, turn or None
            if key not in self._rated:
                self._rated[key] = ratings_rows(rate(_some(self._counted, *key), cluster="visitor"))
            rows = self._rated[key]
        return [row for row in rows if shown is None or shown(row["model"])]

    def ratings(
        self, intent: str | None = None, turn: int | None = None, shown: Callable[[str], bool] | None = None
    ) -> Ratings:
        """The same votes with notes, pair by pair, and to be exported."""
        with self._lock:
            self._refresh()
            votes = self._votes
        return ratings_of(_some(votes, intent or None, turn or None), shown=shown)

    def _refresh(self) -> None:
        """Reads the votes after the last one known.

        PostgreSQL gives a vote its number before it is committed, so a lower number may come later than a higher one;
        then there are fewer than the database counts, and all are read again. A vote that comes between the two
        questions only makes the next refresh read once more than it had to.
        """
        count = self._store.votes_count()
        if count == len(self._votes):
            return
        known = self._votes
        last = int(known["number"].iloc[-1]) if len(known) else None
        new = self._read(last)
        if last is not None and len(known) + len(new) < count:
            known, new = known.head(0), self._read(None)
        self._votes = pd.concat([known, new], ignore_index=True) if len(known) else new
        self._counted = self._votes[self._votes["counted"].astype(bool)]
        self._rated.clear()

    def _read(self, after: int | None) -> pd.DataFrame:
        """The oldest first."""
        return self._store.votes_table(columns=READ, after=after).iloc[::-1].reset_index(drop=True)

    def _quietly(self) -> None:
        with suppress(VoteError):  # whoever opens the page will read why
            self.rows()


def ratings_rows(board: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of `leaderboard.with_votes` from a board of `ratings.rate`.

    Only the models that most votes link have ratings here: those of another component are on a scale of their own.
    """
    return [
        {
            "model": row["model"],
            "votes": int(row["votes"]),
            "win_rate": row["win_rate"],
            "win_rate_ci": [row["win_low"], row["win_high"]],
        }
        | ({"rating": row["rating"], "rating_ci": [row["low"], row["high"]]} if row["component"] == 1 else {})
        for row in board.to_dict("records")
    ]


def _some(votes: pd.DataFrame, intent: str | None, turn: int | None) -> pd.DataFrame:
    if intent is not None:
        votes = votes[votes["intent"] == intent]
    if turn is not None:
        votes = votes[votes["turns"] == turn]
    return votes
