"""Intervals and tests. Pure: arrays in, numbers out; a seed gives the same result twice.

A conversation is one cluster: its turns are not independent, so resampling and variances go by
conversation. Every score here is a function of sums over clusters, which is what lets a bootstrap of
BLEU cost as little as one of a mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Z95 = 1.959963984540054
RESAMPLES = 2000


@dataclass(frozen=True)
class Clustered:
    """A score over clusters. `sums` (clusters, k) are additive; `score` maps (k,) to the score."""

    sums: np.ndarray
    score: Callable[[np.ndarray], float]

    def value(self) -> float:
        return self.score(self.sums.sum(axis=0))


def cluster_sums(rows: np.ndarray, clusters: Sequence[str] | np.ndarray) -> np.ndarray:
    """(turns, k) and a cluster a turn → (clusters, k), in the order the clusters first appear."""
    import pandas as pd

    codes, names = pd.factorize(np.asarray(clusters))
    sums = [np.bincount(codes, weights=column, minlength=len(names)) for column in rows.T]
    return np.stack(sums, axis=1) if sums else np.zeros((len(names), 0))


def clustered_mean(values: np.ndarray, clusters: Sequence[str]) -> Clustered:
    """Mean of (turns,) values."""
    rows = np.stack([values, np.ones(len(values))], axis=1)
    return Clustered(cluster_sums(rows, clusters), lambda s: float(s[0] / s[1]) if s[1] else float("nan"))


def cluster_weights(clusters: int, resamples: int, seed: int) -> np.ndarray:
    """(resamples, clusters): how often each cluster is drawn, with replacement."""
    return np.random.default_rng(seed).multinomial(clusters, np.full(clusters, 1 / clusters), size=resamples)


def bootstrap_interval(score: Clustered, *, resamples: int = RESAMPLES, seed: int = 0) -> tuple[float, float]:
    """95% percentile interval over resampled clusters (Efron 1979)."""
    totals = cluster_weights(len(score.sums), resamples, seed) @ score.sums
    low, high = np.nanpercentile([score.score(row) for row in totals], [2.5, 97.5])
    return float(low), float(high)


def wilson_interval(successes: float, n: float) -> tuple[float, float]:
    """95% score interval of a share (Wilson 1927). `n` may be an effective sample size."""
    if n <= 0:
        return 0.0, 1.0
    p = successes / n
    centre = (p + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n * n))
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    # At the ends rounding leaves 1e-17 where the formula says 0 or 1.
    return (0.0 if successes == 0 else low), (1.0 if successes == n else high)


def clustered_share_interval(correct: np.ndarray, clusters: Sequence[str] | np.ndarray) -> tuple[float, float]:
    """95% interval of the share of ones in (turns,), or of their mean where halves are among them: Wilson's, on the
    effective sample size.

    The effective size is n over the design effect, the ratio of the clustered variance of the mean to the
    binomial one (Kish 1965), taken as at least 1. Where all turns agree the design effect is undefined and
    n itself is taken, as the presentation standards of the US National Center for Health Statistics do
    (Parker et al. 2017, Vital and Health Statistics 2:175).
    """
    n = len(correct)
    if n == 0:
        return 0.0, 1.0
    p = float(correct.mean())
    sums = cluster_sums(np.stack([correct, np.ones(n)], axis=1).astype(float), clusters)
    count = len(sums)
    if p in {0.0, 1.0} or count < 2:
        effective = float(n)
    else:
        residuals = sums[:, 0] - p * sums[:, 1]
        variance = count / (count - 1) * float((residuals**2).sum()) / n**2
        effective = n / max(1.0, variance / (p * (1 - p) / n))
    return wilson_interval(p * effective, effective)


def paired_bootstrap(
    a: Clustered, b: Clustered, *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, tuple[float, float], float]:
    """(a − b, its 95% interval, two-sided p) on the same resamples of the same clusters (Koehn 2004).

    p is twice the share of resamples on the wrong side of 0, so that it rejects where the interval leaves 0 out. For a
    clear difference it is twice that of sacrebleu's paired bootstrap, which looks at one side only.
    """
    weights = cluster_weights(len(a.sums), resamples, seed)
    differences = np.array([a.score(x) - b.score(y) for x, y in zip(weights @ a.sums, weights @ b.sums, strict=True)])
    low, high = np.nanpercentile(differences, [2.5, 97.5])
    tail = min((differences <= 0).sum(), (differences >= 0).sum())
    p = min(1.0, 2 * (tail + 1) / (resamples + 1))
    return a.value() - b.value(), (float(low), float(high)), float(p)


def ratio_interval(
    a: Clustered, b: Clustered, *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float] | None:
    """95% percentile interval of a / b on the same resamples of the same clusters; None where b is 0 in one of forty."""
    weights = cluster_weights(len(a.sums), resamples, seed)
    pairs = np.array([(a.score(x), b.score(y)) for x, y in zip(weights @ a.sums, weights @ b.sums, strict=True)])
    known = pairs[pairs[:, 1] > 0]
    if len(known) < 0.975 * resamples:
        return None
    low, high = np.percentile(known[:, 0] / known[:, 1], [2.5, 97.5])
    return float(low), float(high)


def paired_permutation(
    a: np.ndarray, b: np.ndarray, clusters: Sequence[str], *, resamples: int = 10_000, seed: int = 0
) -> float:
    """Two-sided p of equal means of (turns,) a and b: signs of whole clusters are flipped (Good 2005)."""
    differences = cluster_sums((a - b)[:, None].astype(float), clusters)[:, 0]
    observed = abs(differences.sum())
    signs = np.random.default_rng(seed).choice((-1.0, 1.0), size=(resamples, len(differences)))
    extreme = (np.abs(signs @ differences) >= observed - 1e-12).sum()
    return float((extreme + 1) / (resamples + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values for several tests at once (Holm 1979), in the order given."""
    order = np.argsort(p_values)
    adjusted = np.empty(len(p_values))
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted.tolist()


def cohen_kappa(confusion: np.ndarray) -> float:
    """Agreement of two raters beyond chance (Cohen 1960), from counts (labels, labels), the first rater's in rows.

    κ = (pₒ − pₑ) / (1 − pₑ) with the observed agreement pₒ and that of independent raters with the same shares pₑ.
    NaN where both use one label alone: chance then explains everything.
    """
    n = confusion.sum()
    if n == 0:
        return float("nan")
    observed = np.trace(confusion) / n
    expected = float(confusion.sum(axis=1) @ confusion.sum(axis=0)) / n**2
    return float((observed - expected) / (1 - expected)) if expected < 1 else float("nan")


def shared_ranks(intervals: Sequence[tuple[float, float]]) -> list[int]:
    """1 + the number of models that are surely better: a rank is shared when intervals overlap."""
    return [1 + sum(other[0] > mine[1] for other in intervals) for mine in intervals]


def percentile(values: Sequence[float], q: float) -> float | None:
    return float(np.percentile(values, q)) if len(values) else None
