"""From timed requests to the figures of a load test. Pure: rows in, numbers out.

A request that failed counts as one that never ends: it stays in the percentiles of the whole reply's time, as infinity,
and in those of the first token where none came, or a model that refuses most of its users would look fast. Infinity is
None in what is written (JSON has none), with an interval beside it; a figure without values has none.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evals.statistics import RESAMPLES, cluster_weights

PERCENTILES = (50, 90, 95, 99)
#: Of the machine: where other programs take more, a level's times are not the model's own.
MAX_OTHERS_SHARE = 0.1
#: From here on users are the clusters of a bootstrap. With fewer there is too little to draw from, and conversations are.
MIN_USERS_TO_CLUSTER = 8


@dataclass(frozen=True)
class TimedRequest:
    """One request of one user. Times in seconds; `sent_s` counts from the opening of the measured window."""

    user: int
    #: Which conversation of this user it is part of, from 0.
    visit: int
    conversation: str
    turn: int
    #: Somebody has had this conversation with the model before, in this level: its beginning may be in a cache.
    repeated: bool
    sent_s: float
    #: Until the first content that is not empty; None where there was none.
    ttft_s: float | None
    #: Until the reply ended, or the request failed.
    latency_s: float
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    error: str | None = None

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first: (end − TTFT) / (n − 1), for n > 1 tokens."""
        n = self.completion_tokens
        return (self.latency_s - self.ttft_s) / (n - 1) if n and n > 1 and self.ttft_s is not None else None


@dataclass(frozen=True)
class Limits:
    """What a reply must keep to be a good one, in seconds; None is no limit."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    latency_s: float | None = None

    def given(self) -> dict[str, float]:
        return {key: value for key, value in vars(self).items() if value is not None}

    def kept(self, request: TimedRequest) -> bool:
        """A reply of a single token has no TPOT to be too slow in."""
        if request.error is not None or (self.ttft_s is not None and request.ttft_s is None):
            return False
        return all((getattr(request, key) or 0.0) <= limit for key, limit in self.given().items())


def level_figures(
    requests: Sequence[TimedRequest],
    *,
    users: int,
    window_s: float,
    cpu_s: float | None,
    users_cpu_s: float,
    limits: Limits,
    price_per_hour: float | None,
) -> dict[str, Any]:
    """One level of load. `cpu_s`: processor seconds of the window, of a model on this machine; `users_cpu_s`: the
    users' own; price in USD.

    Times are those of all requests that were sent in the window, which were followed to their end: leaving out the
    unfinished would leave out the slow. Rates count the replies that ended in the window, whenever they were sent:
    under a steady load as many come over its one edge as go over the other.
    """
    sent = [r for r in requests if 0 <= r.sent_s < window_s]
    ended = [r for r in requests if r.error is None and 0 < r.sent_s + r.latency_s <= window_s]
    tokens = [r.completion_tokens for r in ended if r.completion_tokens is not None]
    rate = len(ended) / window_s
    figures: dict[str, Any] = {
        "users": users,
        "window_s": window_s,
        "requests": len(sent),
        "errors": dict(Counter(r.error for r in sent if r.error is not None).most_common()),
        "repeated": sum(r.repeated for r in sent) / len(sent) if sent else 0.0,
        "replies_per_s": rate,
        "tokens_per_s": sum(tokens) / window_s if len(tokens) == len(ended) else None,
        "good_replies_per_s": None,
        "kept_limits": None,
        "cpu_s_per_reply": cpu_s / len(ended) if cpu_s is not None and ended else None,
        #: Of all processor seconds, and of one core: what the users take, who in life are elsewhere.
        "users_cpu_share": users_cpu_s / cpu_s if cpu_s else None,
        "users_core_share": users_cpu_s / window_s,
        "cost_per_1k": 1000 * price_per_hour / (rate * 3600) if price_per_hour is not None and rate else None,
    }
    figures["error_share"] = sum(figures["errors"].values()) / len(sent) if sent else 0.0
    if limits.given():
        figures["good_replies_per_s"] = sum(map(limits.kept, ended)) / window_s
        figures["kept_limits"] = sum(map(limits.kept, sent)) / len(sent) if sent else None
    clusters = [f"{r.user}" if users >= MIN_USERS_TO_CLUSTER else f"{r.user}.{r.visit}" for r in sent]
    for key in ("ttft_s", "tpot_s", "latency_s"):
        values = [_time(r, key) for r in sent]
        known = [(value, cluster) for value, cluster in zip(values, clusters, strict=True) if value is not None]
        figures |= _percentiles(key.removesuffix("_s"), [v for v, _ in known], [c for _, c in known])
    return figures


def _time(request: TimedRequest, key: str) -> float | None:
    if request.error is None:
        return getattr(request, key)
    if key == "ttft_s" and request.ttft_s is not None:  # it began
        return request.ttft_s
    return None if key == "tpot_s" else math.inf


def _percentiles(name: str, values: Sequence[float], clusters: Sequence[str]) -> dict[str, Any]:
    keys = [f"{name}_p{q}_s" for q in PERCENTILES]
    if not values:
        return dict.fromkeys([*keys, *(f"{key}_ci" for key in keys)])
    intervals = bootstrap_percentiles(values, clusters, PERCENTILES)
    figures: dict[str, Any] = {}
    for key, value, (low, high) in zip(keys, percentiles(np.array(values), PERCENTILES), intervals, strict=True):
        figures |= {key: _finite(value), f"{key}_ci": [_finite(low), _finite(high)]}
    return figures


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def percentiles(values: np.ndarray, qs: Sequence[float]) -> np.ndarray:
    """(n,) values, which may be infinite → one value a q: linear between the two nearest, type 7 of Hyndman & Fan (1996).

    As numpy.percentile, but it knows what lies between a number and infinity: infinity.
    """
    ordered = np.sort(values)
    place = np.round(np.asarray(qs) / 100 * (len(ordered) - 1), 9)
    below = np.floor(place).astype(int)
    low, high = ordered[below], ordered[np.ceil(place).astype(int)]
    between = np.where(np.isinf(high), 0.0, high - np.where(np.isinf(low), 0.0, low)) * (place - below)
    return np.where(np.isinf(high), high, low + between)


def bootstrap_percentiles(
    values: Sequence[float], clusters: Sequence[str], qs: Sequence[float], *, resamples: int = RESAMPLES, seed: int = 0
) -> list[tuple[float, float]]:
    """95% percentile intervals (Efron 1979), one a q, over resampled clusters. `clusters[k]` is that of `values[k]`."""
    index = {name: i for i, name in enumerate(dict.fromkeys(clusters))}
    of_value = np.array([index[name] for name in clusters])
    array = np.array(values)
    drawn = np.array(
        [
            percentiles(np.repeat(array, weights[of_value]), qs)
            for weights in cluster_weights(len(index), resamples, seed)
        ]
    )
    return [tuple(percentiles(column, (2.5, 97.5)).tolist()) for column in drawn.T]


@dataclass(frozen=True)
class Carried:
    """How many users a model carries within a limit. `users`: measured; 0 where the smallest level fails already."""

    users: int
    #: The smallest measured level above that fails; None where none does: it may carry more.
    fails_at: int | None
    #: Where a straight line between the two levels crosses the limit. An estimate: nothing was measured there.
    estimate: float | None


def carried(p95: Mapping[int, float | None], limit: float) -> Carried:
    """The largest measured number of users whose p95 stays within `limit`, there and at every smaller measured level.

    `p95`: seconds by number of users, None for more than any limit. More users are never faster: a level that holds
    above one that fails does so by luck, and does not count.
    """
    users, last = 0, None
    for n in sorted(p95):
        value = p95[n]
        if value is None or value > limit:
            estimate = None
            if last is not None:
                share = (limit - last) / (value - last) if value is not None else 0.0
                estimate = users + share * (n - users)
            return Carried(users, n, estimate)
        # More users are never faster: a dip is taken for chance, and the line goes on from the highest point so far.
        users, last = n, value if last is None else max(last, value)
    return Carried(users, None, None)


def next_level(p95: Mapping[int, float | None], limit: float, most: int) -> int | None:
    """The level to measure next in search of the most users within `limit`; None when it is found.

    Doubles while all levels hold, up to `most`; then halves the gap above the largest that holds, until the gap is a
    tenth of it, or one user.
    """
    found = carried(p95, limit)
    if found.fails_at is None:
        return min(max(1, 2 * found.users), most) if found.users < most else None
    gap = found.fails_at - found.users
    return found.users + gap // 2 if gap > max(1, found.users // 10) else None
