"""Votes → ratings. Pure functions over a table with one row a vote; the order of its rows does not matter.

Columns: `model_a`, `model_b`, `choice` (a, b, tie, both_bad); some functions also read `visitor`, `intent`, `turns`,
`len_a` and `len_b`. Ties and both-bad count as half a win for each side. A vote between a model and itself says
nothing about its strength and is left out. Raises DataError for a table that is none of that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from scipy.special import expit, stdtrit

from distiller.errors import DataError
from evals.statistics import Z95, cluster_sums, clustered_share_interval, shared_ranks

#: A model that is 400 points ahead wins ten of eleven (Elo 1978).
ELO_SCALE = 400 / math.log(10)
MEAN_RATING = 1000.0
RESAMPLES = 1000
SCORES = {"a": 1.0, "tie": 0.5, "both_bad": 0.5, "b": 0.0}
COLUMNS = (
    "component", "rank", "model", "rating", "low", "high", "votes", "wins", "losses", "ties", "both_bad", "win_rate",
    "win_low", "win_high",
)  # fmt: skip
PAIR_COLUMNS = (
    "model_a", "model_b", "votes", "wins", "losses", "ties", "both_bad", "win_rate", "win_low", "win_high",
    "equal_length_rate", "equal_length_low", "equal_length_high",
)  # fmt: skip
_CELLS = 2_000_000  # resamples × models × models that are fitted at once: bounds the memory


@dataclass(frozen=True)
class WinRate:
    """Of `a` against `b`: wins and half of the ties over all votes, with its 95% interval."""

    a: str
    b: str
    wins: int
    losses: int
    ties: int
    both_bad: int
    rate: float
    low: float
    high: float


def win_rate(votes: pd.DataFrame, a: str, b: str, *, cluster: Literal["visitor"] | None = None) -> WinRate:
    """How often `a` beat `b`, with Wilson's interval; no votes: 0.5 with an interval from 0 to 1.

    A tie is entered as half a success. It varies less than a vote that is won or lost, so with ties the interval
    is rather too wide than too narrow. `cluster`: votes of one visitor are not independent, and the interval is that
    of as many votes as they are worth (`statistics.clustered_share_interval`).
    """
    table = _between(votes, a, b)
    counts = table["choice"].value_counts()
    wins, losses, ties, both_bad = (int(counts.get(choice, 0)) for choice in ("a", "b", "tie", "both_bad"))
    scores = table["choice"].map(SCORES).to_numpy(float)
    low, high = clustered_share_interval(scores, _clusters(table, cluster))
    rate = float(scores.mean()) if len(table) else 0.5
    return WinRate(a, b, wins, losses, ties, both_bad, rate, low, high)


def length_controlled_win_rate(
    votes: pd.DataFrame, a: str, b: str, *, cluster: Literal["visitor"] | None = None
) -> tuple[float, tuple[float, float]]:
    """(rate, 95% interval) of `a` against `b`, were their replies equally long; needs `len_a` and `len_b`.

    logit P(a wins) = θ + φ · tanh(Δ / std(Δ)) with Δ = len(a) − len(b), read off at Δ = 0: σ(θ). This is the
    length term of AlpacaEval 2 LC (Dubois et al. 2024, arXiv:2404.04475), without its term for the instruction.
    One virtual tie, half of it at each end of the length term, keeps θ and φ finite where the longer reply always wins.
    The interval is Wald's on the logit scale; with `cluster` its variance is the larger one of that and of the sandwich
    over visitors (Liang & Zeger 1986).
    """
    _need(votes, "len_a", "len_b")
    table = _between(votes, a, b).dropna(subset=["len_a", "len_b"])
    difference = (table["len_a"] - table["len_b"]).to_numpy(float)
    spread = difference.std()
    term = np.tanh(difference / spread) if spread > 0 else np.zeros(len(table))
    clusters, scores = _clusters(table, cluster), table["choice"].map(SCORES).to_numpy(float)
    # In an order of their own: sums of floats would otherwise depend on the order of the rows in their last digits.
    order = np.lexsort([clusters if cluster else scores, scores, term])
    term, clusters, scores = term[order], clusters[order], np.append(scores[order], [0.5, 0.5])
    design = np.stack([np.ones(len(table) + 2), np.append(term, [1.0, -1.0])], axis=1)
    weights = np.append(np.ones(len(table)), [0.5, 0.5])
    coefficients = np.zeros(2)
    for _ in range(100):
        p = expit(design @ coefficients)
        information = design.T @ (design * (weights * p * (1 - p))[:, None])
        step = np.linalg.solve(information, design.T @ (weights * (scores - p)))
        coefficients += step * _damping(np.abs(design @ step).max())
        if np.abs(step).max() < 1e-10:
            break
    inverse = np.linalg.inv(information)
    variance = inverse[0, 0]
    if cluster is not None and len(table):
        errors = (design * (weights * (scores - p))[:, None])[: len(table)]
        sums = cluster_sums(errors, clusters)
        if len(sums) > 1:
            sandwich = inverse @ (sums.T @ sums) @ inverse * len(sums) / (len(sums) - 1)
            variance = max(variance, sandwich[0, 0])
    half = Z95 * math.sqrt(variance)
    low, middle, high = expit(coefficients[0] + np.array([-half, 0.0, half])).tolist()
    return middle, (low, high)


def head_to_head(votes: pd.DataFrame, *, cluster: Literal["visitor"] | None = None) -> pd.DataFrame:
    """One row for each pair that met, with the PAIR_COLUMNS, the one with the most votes first.

    `win_rate` is that of `model_a`; `equal_length_rate` what it would be were the replies equally long
    (`length_controlled_win_rate`; NaN where the votes have no lengths). Each interval is right 95 times in 100 by
    itself, not all of them together.
    """
    _need(votes, "model_a", "model_b", "choice")
    with_lengths = {"len_a", "len_b"} <= set(votes.columns)
    rows = []
    for a, b in sorted({(min(pair), max(pair)) for pair in zip(votes["model_a"], votes["model_b"], strict=True)}):
        if a == b:
            continue
        table = _between(votes, a, b)
        found = win_rate(table, a, b, cluster=cluster)
        equal, (low, high) = math.nan, (math.nan, math.nan)
        if with_lengths:
            equal, (low, high) = length_controlled_win_rate(table, a, b, cluster=cluster)
        counts = (len(table), found.wins, found.losses, found.ties, found.both_bad)
        rows.append((a, b, *counts, found.rate, found.low, found.high, equal, low, high))
    pairs = pd.DataFrame(rows, columns=list(PAIR_COLUMNS))
    return pairs.sort_values(["votes", "model_a", "model_b"], ascending=[False, True, True], ignore_index=True)


def rate(
    votes: pd.DataFrame,
    *,
    anchor: str | None = None,
    anchor_rating: float = MEAN_RATING,
    cluster: Literal["visitor"] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """The board: one row a model with the COLUMNS, the best first; no votes, no rows.

    Ratings are Bradley–Terry strengths (`fit_strengths`) on the Elo scale, 400 / ln 10 points a unit. Their mean is
    1000, or that of `anchor` is `anchor_rating`. `low` and `high` are the ends of the 95% percentile interval of a
    bootstrap over votes; where `cluster` asks for it of one over visitors, if that is wider. A rank is shared when
    intervals overlap. Models that no chain of votes links cannot be compared: each `component` (1 has the most votes)
    has its own mean and ranks.

    What the intervals can and cannot do, measured on simulated boards (tests/evals/test_coverage.py): they hold the
    truth in 92 to 98 of 100 for two to ten models from a dozen votes a model on; where one side wins nineteen of twenty, from
    about eighty (at forty, some 91). Visitors who differ in taste take that down to 70–90 without `cluster`; with it, it holds from about ten visitors on, and below
    that the intervals are rough. Each is right by itself, not all of a board at once.
    """
    outcomes = _Outcomes.of(votes)
    if anchor is not None and anchor not in outcomes.models:
        raise DataError(
            f"There is no vote on {anchor!r} to anchor at; there are {', '.join(outcomes.models) or 'none'}."
        )
    visitors = _codes(votes, outcomes.rows) if cluster else None
    tallies = _tallies(votes.iloc[outcomes.rows], visitors)
    rows = []
    for number, members in enumerate(outcomes.components(), start=1):
        part = outcomes.within(members)
        strengths = fit_strengths(part.wins(part.counts[None, :]))
        boards = [strengths, _bootstrap(part, resamples, seed)]
        if visitors is not None:
            inside = np.isin(outcomes.outcome, part.keys)
            drawn = _cluster_bootstrap(part, visitors[inside], outcomes.outcome[inside], resamples, seed)
            boards.append(strengths + _few_clusters(len(np.unique(visitors[inside]))) * (drawn - strengths))
        ratings, *resampled = (_scaled(board, part.models, anchor, anchor_rating) for board in boards)
        # The wider one: votes of one visitor may agree more than chance, not less (a design effect of at least 1).
        low = np.min([ratings[0], *(np.percentile(points, 2.5, axis=0) for points in resampled)], axis=0)
        high = np.max([ratings[0], *(np.percentile(points, 97.5, axis=0) for points in resampled)], axis=0)
        ranks = shared_ranks(list(zip(low, high, strict=True)))
        for k, model in enumerate(part.models):
            row = {"component": number, "rank": ranks[k], "model": model, "rating": ratings[0, k]}
            rows.append(row | {"low": low[k], "high": high[k]} | tallies[model])
    board = pd.DataFrame(rows, columns=list(COLUMNS))
    return board.sort_values(["component", "rating", "model"], ascending=[True, False, True], ignore_index=True)


def rate_by(votes: pd.DataFrame, column: str, **options: object) -> pd.DataFrame:
    """A board for each value of `column`, such as `intent` or `turns`, which stands before the COLUMNS.

    Votes without a value are left out. `options` are those of `rate`.
    """
    _need(votes, column)
    boards = [
        rate(group, **options).assign(**{column: value})[[column, *COLUMNS]]  # type: ignore[arg-type]
        for value, group in votes.groupby(column, sort=True)
    ]
    return pd.concat(boards, ignore_index=True) if boards else pd.DataFrame(columns=[column, *COLUMNS])


def fit_strengths(wins: np.ndarray) -> np.ndarray:
    """Maximum-likelihood Bradley–Terry strengths θ, P(i beats j) = σ(θᵢ − θⱼ) (Bradley & Terry 1952).

    `wins` (boards, models, models): how often i beat j, halves allowed; the graph of the pairs that met is
    connected and every pair that met has a win on both sides. Returns (boards, models) with mean 0, in logits.

    Newton's steps d are shortened to ln(1 + |d|)/|d|, |d| being the largest change of a difference: the
    log-likelihood of a logistic model then rises at every step (Sun & Tran-Dinh 2019, generalized
    self-concordance), so that lopsided boards converge as well.
    """
    boards, models, _ = wins.shape
    games = wins + wins.transpose(0, 2, 1)
    strengths = np.zeros((boards, models))
    diagonal = np.arange(models)
    for _ in range(200):
        p = expit(strengths[:, :, None] - strengths[:, None, :])
        gradient = (wins - games * p).sum(axis=2)
        curvature = games * p * (1 - p)
        information = -curvature
        information[:, diagonal, diagonal] += curvature.sum(axis=2)
        # A shift of all strengths changes nothing; the added constant takes the mean for it.
        step = np.linalg.solve(information + 1 / models, gradient[:, :, None])[:, :, 0]
        change = np.ptp(step, axis=1)
        strengths += step * _damping(change)[:, None]
        if change.max() < 1e-10:
            break
    return strengths - strengths.mean(axis=1, keepdims=True)


def _bootstrap(outcomes: _Outcomes, resamples: int, seed: int) -> np.ndarray:
    """(resamples, models) strengths, each of as many votes as there were, drawn with replacement (Efron 1979).

    Drawn are counts of the unique outcomes, a multinomial, not rows. The virtual ties take part, as halves of
    wins and of losses: without them a pair at 20–0 would be 20–0 in every resample, and its interval a point.
    """
    generator = np.random.default_rng(seed)
    shares = (outcomes.counts + outcomes.virtual) / (outcomes.counts + outcomes.virtual).sum()
    counts = generator.multinomial(int(outcomes.counts.sum()), shares, size=resamples)
    return _fit_in_parts(outcomes, counts)


@dataclass(frozen=True)
class _Outcomes:
    """Votes counted. An outcome is a pair (first < second) and what came out: win, tie or loss of the first.

    All three of every pair that met are there, ordered by `keys`; `counts` says how often each came out.
    """

    models: list[str]
    keys: np.ndarray
    first: np.ndarray
    second: np.ndarray
    score: np.ndarray  # of the first: 1, 0.5, 0
    counts: np.ndarray
    rows: np.ndarray  # positions of the votes that count
    outcome: np.ndarray  # the key of each

    @classmethod
    def of(cls, votes: pd.DataFrame) -> _Outcomes:
        _need(votes, "model_a", "model_b", "choice")
        unknown = sorted(set(votes["choice"].unique()) - set(SCORES), key=str)
        if unknown:
            raise DataError(f"A vote has the choice {unknown[0]!r}; choices are {', '.join(SCORES)}.")
        rows = np.flatnonzero((votes["model_a"] != votes["model_b"]).to_numpy())
        table = votes.iloc[rows]
        codes, names = pd.factorize(pd.concat([table["model_a"], table["model_b"]]), sort=True)
        a, b = codes[: len(rows)], codes[len(rows) :]
        score = table["choice"].map(SCORES).to_numpy(float)
        score = np.where(a < b, score, 1 - score)
        pair = np.minimum(a, b) * len(names) + np.maximum(a, b)
        outcome = pair * 3 + (2 * score).astype(int)
        keys = (np.unique(pair)[:, None] * 3 + np.arange(3)).ravel()
        counts = np.bincount(np.searchsorted(keys, outcome), minlength=len(keys)).astype(float)
        first, second = np.divmod(keys // 3, max(1, len(names)))
        return cls(list(names), keys, first, second, keys % 3 / 2, counts, rows, outcome)

    @property
    def virtual(self) -> np.ndarray:
        """One virtual tie a model, shared by the pairs it met: between two models one tie, half a win and half a loss.

        It keeps 20–0 finite. A whole one for each pair would pull many models that met a few times to the mean: with
        ten models and three votes a pair the 95% intervals then cover 62% of the true ratings, and so 94%.
        """
        met = np.bincount(np.concatenate([self.first, self.second]), minlength=len(self.models)) / 3
        ties = (1 / met[self.first] + 1 / met[self.second]) / 2
        return np.where(self.score == 0.5, 0.0, ties / 2)

    def wins(self, counts: np.ndarray) -> np.ndarray:
        """(boards, outcomes) counts → (boards, models, models) wins, the virtual ties among them."""
        k, ranks = len(self.models), np.arange(len(self.keys))
        cells = np.concatenate([self.first * k + self.second, self.second * k + self.first])
        shares = np.concatenate([self.score, 1 - self.score])
        to_cells = csr_array((shares, (cells, np.concatenate([ranks, ranks]))), shape=(k * k, len(self.keys)))
        return (to_cells @ (counts + self.virtual).T).T.reshape(len(counts), k, k)

    def components(self) -> list[np.ndarray]:
        """Model numbers by connected component, the one with the most votes first."""
        k = len(self.models)
        if k == 0:
            return []
        met = csr_array((np.ones(len(self.keys)), (self.first, self.second)), shape=(k, k))
        count, labels = connected_components(met, directed=False)
        sizes = np.bincount(labels[self.first], weights=self.counts, minlength=count)
        return [np.flatnonzero(labels == label) for label in np.argsort(-sizes, kind="stable")]

    def within(self, members: np.ndarray) -> _Outcomes:
        inside = np.isin(self.first, members)
        return _Outcomes(
            [self.models[m] for m in members],
            self.keys[inside],
            np.searchsorted(members, self.first[inside]),
            np.searchsorted(members, self.second[inside]),
            self.score[inside],
            self.counts[inside],
            self.rows,
            self.outcome,
        )


def _cluster_bootstrap(
    outcomes: _Outcomes, visitors: np.ndarray, outcome: np.ndarray, resamples: int, seed: int
) -> np.ndarray:
    """As `_bootstrap`, with whole visitors drawn: (votes,) codes of visitors and outcomes of their votes."""
    names, codes = np.unique(visitors, return_inverse=True)
    column = np.searchsorted(outcomes.keys, outcome)
    table = csr_array((np.ones(len(codes)), (column, codes)), shape=(len(outcomes.keys), len(names)))
    table.sum_duplicates()
    generator = np.random.default_rng(seed)
    counts = np.empty((resamples, len(outcomes.keys)))
    for row in counts:
        drawn = generator.integers(len(names), size=len(names), dtype=np.int32)
        row[:] = table @ np.bincount(drawn, minlength=len(names)).astype(float)
    return _fit_in_parts(outcomes, counts)


def _few_clusters(clusters: int) -> float:
    """How much wider an interval over few clusters has to be: t on G − 1 degrees of freedom for z, and G / (G − 1) for
    the variance (Cameron & Miller 2015, Journal of Human Resources 50:2). Below five it is that of five: no interval
    over so few says much, and t would make it endless."""
    clusters = max(5, clusters)
    return float(stdtrit(clusters - 1, 0.975)) / Z95 * math.sqrt(clusters / (clusters - 1))


def _fit_in_parts(outcomes: _Outcomes, counts: np.ndarray) -> np.ndarray:
    size = max(1, _CELLS // len(outcomes.models) ** 2)
    parts = [counts[start : start + size] for start in range(0, len(counts), size)]
    return np.concatenate([fit_strengths(outcomes.wins(part)) for part in parts])


def _damping(change: np.ndarray | float) -> np.ndarray:
    change = np.maximum(change, 1e-300)
    return np.log1p(change) / change


def _scaled(strengths: np.ndarray, models: Sequence[str], anchor: str | None, anchor_rating: float) -> np.ndarray:
    """(boards, models) logits with mean 0 → points."""
    points = strengths * ELO_SCALE
    if anchor not in models:
        return points + MEAN_RATING
    return points - points[:, [models.index(anchor)]] + anchor_rating


def _tallies(votes: pd.DataFrame, visitors: np.ndarray | None) -> dict[str, dict[str, float]]:
    """Of each model: votes, wins, losses, ties, both_bad and the win rate in which the last two count half, with its
    95% interval (Wilson's; with `visitors`, a number a vote, a visitor is one cluster)."""
    codes, names = pd.factorize(pd.concat([votes["model_a"], votes["model_b"]]), sort=True)
    choice = pd.Categorical(votes["choice"], categories=list(SCORES)).codes
    turned = np.array([list(SCORES).index(other) for other in ("b", "tie", "both_bad", "a")])[choice]
    choices = np.concatenate([choice, turned])
    clusters = np.tile(np.arange(len(votes)) if visitors is None else visitors, 2)
    points = np.array(list(SCORES.values()))
    order = np.argsort(codes, kind="stable")
    ends = np.cumsum(np.bincount(codes, minlength=len(names)))
    result = {}
    for model, start, end in zip(names, np.append(0, ends), ends, strict=False):
        mine = order[start:end]
        wins, ties, both_bad, losses = np.bincount(choices[mine], minlength=len(SCORES)).tolist()
        n = wins + ties + both_bad + losses
        low, high = clustered_share_interval(points[choices[mine]], clusters[mine])
        tally = {"votes": n, "wins": wins, "losses": losses, "ties": ties, "both_bad": both_bad}
        result[str(model)] = tally | {"win_rate": (wins + (ties + both_bad) / 2) / n, "win_low": low, "win_high": high}
    return result


def _between(votes: pd.DataFrame, a: str, b: str) -> pd.DataFrame:
    """The votes on this pair, `a` on the left."""
    _need(votes, "model_a", "model_b", "choice")
    straight = votes[(votes["model_a"] == a) & (votes["model_b"] == b)]
    turned = votes[(votes["model_a"] == b) & (votes["model_b"] == a) & (a != b)]
    names = {"model_a": "model_b", "model_b": "model_a", "len_a": "len_b", "len_b": "len_a"}
    turned = turned.rename(columns=names).assign(choice=turned["choice"].replace({"a": "b", "b": "a"}))
    return pd.concat([straight, turned[list(straight.columns)]], ignore_index=True)


def _clusters(votes: pd.DataFrame, cluster: Literal["visitor"] | None) -> np.ndarray:
    """A number for each vote: its visitor's, or its own."""
    return np.arange(len(votes)) if cluster is None else _codes(votes, np.arange(len(votes)))


def _codes(votes: pd.DataFrame, rows: np.ndarray) -> np.ndarray:
    """A number for each visitor; those without a name are taken for one."""
    _need(votes, "visitor")
    return pd.factorize(votes["visitor"].iloc[rows].fillna("").astype(str), sort=True)[0]


def _need(votes: pd.DataFrame, *columns: str) -> None:
    missing = [column for column in columns if column not in votes.columns]
    if missing:
        raise DataError(f"The votes have no column {missing[0]!r}; there are {', '.join(map(str, votes.columns))}.")
