"""Every figure that a model is judged by: its title, how it is written, and what it means.

The one place of definitions: reports, the command line and the page take them from here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Formatter = Callable[[Any], str]


@dataclass(frozen=True)
class Column:
    """`key` is that of a row of a report or of the leaderboard, `key`_ci holds its 95% interval, if it has one."""

    key: str
    title: str
    show: Formatter
    #: For a reader who has never trained a model: whole sentences, exact.
    meaning: str
    interval: Formatter | None = None

    def cell(self, row: dict[str, Any]) -> str:
        """The value as it is read, its interval behind it; a dash where it is unknown."""
        value = row.get(self.key)
        if value is None:
            return "–"
        bounds = row.get(f"{self.key}_ci")
        if self.interval is None or not bounds:
            return self.show(value)
        low, high = map(self.interval, bounds)
        # Signed bounds need a word between them: "-12–40" is hard to read.
        return f"{self.show(value)} ({low}{' to ' if min(bounds) < 0 else '–'}{high})"


def plain(digits: int, unit: str = "", scale: float = 1.0) -> Formatter:
    return lambda value: f"{value * scale:,.{digits}f}{unit}"


ALONE = "measured with one question at a time, alone on the machine, after a warm-up that is not counted"

#: In the order in which they are shown.
COLUMNS: tuple[Column, ...] = (
    Column("rank", "rank", plain(0),
        "Place by accuracy: 1 + the number of models that are surely better, which are those whose whole accuracy interval "
        "lies above this model's. Models that cannot be told apart share a rank."),
    Column("accuracy", "accuracy", plain(1, "%", 100),
        "Share of the judged turns with a correct reply. Where the data lists the facts that a reply must state, a reply is "
        "correct when it states all of them and says nothing that is forbidden. Otherwise it is correct when the most similar "
        "reply in the training data answers the same intent. In brackets the 95% interval (Wilson's; a conversation is one "
        "cluster, because its turns are not independent).", plain(1, "", 100)),
    Column("retention", "of teacher's", plain(1, "%", 100),
        "Accuracy divided by the teacher's: how much of the teacher's quality is kept. In brackets the 95% interval, both "
        "models on the same draws of conversations.", plain(1, "", 100)),
    Column("improvement", "over baseline", lambda value: f"{value * 100:+.1f} pt",
        "Accuracy less the baseline's, in percentage points. The baseline is the student before distillation. In brackets "
        "the 95% interval, both models on the same draws of conversations.", lambda value: f"{value * 100:+.1f}"),
    Column("rating", "rating", plain(0),
        "Strength in people's votes (Bradley–Terry): of two models 400 points apart, the stronger is expected to win 10 of 11 "
        "comparisons; the mean is 1,000. Ties and “both bad” count half for each. In brackets the 95% interval, from "
        "repeated draws of the visitors and their votes. A model that no chain of votes links to the others has none.", plain(0)),
    Column("vote_rank", "rank by votes", plain(0),
        "Place by rating: 1 + the number of models whose whole rating interval lies above this model's."),
    Column("win_rate", "win rate", plain(1, "%", 100),
        "Share of its comparisons that people decided for this model; ties and “both bad” count half. In brackets the "
        "95% interval (Wilson's; a visitor is one cluster).", plain(1, "", 100)),
    Column("votes", "votes", plain(0), "Number of counted votes on comparisons with this model in them."),
    Column("bleu", "BLEU", plain(1),
        "Word overlap with the reference replies over the whole data, 0 to 100 (corpus BLEU by sacrebleu). In brackets the 95% "
        "interval, by bootstrap over conversations.", plain(1)),
    Column("chrf", "chrF", plain(1),
        "Overlap of character sequences with the reference replies, 0 to 100 (corpus chrF2 by sacrebleu). Kinder than BLEU to "
        "other endings of the same word.", plain(1)),
    Column("embedding_similarity", "similarity", plain(3),
        "Likeness in meaning to the reference replies, up to 1: the mean cosine of sentence vectors. In brackets the 95% "
        "interval, by bootstrap over conversations.", plain(3)),
    Column("teacher_bleu", "BLEU to teacher", plain(1), "BLEU against the teacher's replies to the same turns.", plain(1)),
    Column("teacher_similarity", "sim. to teacher", plain(3), "Similarity to the teacher's replies to the same turns.",
        plain(3)),
    Column("free_accuracy", "free accuracy", plain(1, "%", 100),
        "Accuracy when each turn follows the model's own earlier replies; in “accuracy” it follows the reference ones.",
        plain(1, "", 100)),
    Column("ttft_p50_s", "TTFT p50", plain(3, " s"),
        f"Time to first token: how long until the first text of a reply appears, median; {ALONE}."),
    Column("latency_p50_s", "reply p50", plain(2, " s"),
        f"Time of a whole reply, median, the lookup of policy text included; {ALONE}."),
    Column("latency_p95_s", "reply p95", plain(2, " s"), "Time of a whole reply that 95% of the replies stay under."),
    Column("tokens_per_s", "tokens/s", plain(0), f"Tokens (pieces of words) written a second; {ALONE}."),
    Column("replies_per_hour", "replies/h", plain(0), "Replies an hour with many questions at once."),
    Column("cpu_s_per_reply", "CPU s/reply", plain(2), "Processor seconds a reply takes, summed over the cores."),
    Column("weights_mb", "weights MB", plain(0), "Size of the weight files on disk, in megabytes."),
    Column("peak_memory_mb", "peak MB", plain(0),
        "Most memory that a fresh process held while it loaded the model and answered, in megabytes."),
    Column("parameters", "parameters", plain(1, "M", 1e-6), "Number of weights of the model, in millions."),
    Column("cost_per_1k", "$ per 1,000", plain(4),
        "US dollars for 1,000 replies: the price of a machine-hour over the replies an hour, or the API's token price."),
    Column("n", "turns judged", plain(0), "Turns that have something to be judged by: facts, an intent or a reference reply."),
)  # fmt: skip

#: Those that a report has; the others come with votes.
REPORT_COLUMNS = tuple(c for c in COLUMNS if c.key not in {"rating", "vote_rank", "win_rate", "votes"})
BY_KEY = {column.key: column for column in COLUMNS}


def cell(key: str, row: dict[str, Any]) -> str:
    """The shown text of one value; a dash where it is unknown."""
    return BY_KEY[key].cell(row)


def used_columns(rows: Sequence[dict[str, Any]]) -> list[Column]:
    """The columns in which some row has a value."""
    return [column for column in COLUMNS if any(row.get(column.key) is not None for row in rows)]
