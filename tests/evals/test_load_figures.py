"""The figures of a load test, against cases computed by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.load_figures import (
    Limits,
    TimedRequest,
    bootstrap_percentiles,
    carried,
    level_figures,
    next_level,
    percentiles,
)


def row(sent_s: float, latency_s: float = 1.0, **more: Any) -> TimedRequest:
    given: dict[str, Any] = {"user": 0, "visit": 0, "conversation": "c", "turn": 0, "repeated": False, "ttft_s": 0.25}
    return TimedRequest(**given | {"sent_s": sent_s, "latency_s": latency_s, "completion_tokens": 4} | more)


def figures(*rows: TimedRequest, limits: Limits | None = None, **more: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"users": 1, "window_s": 10.0, "cpu_s": None, "users_cpu_s": 0.1, "price_per_hour": None}
    return level_figures(rows, limits=limits or Limits(), **given | more)


def test_percentiles_are_linear_between_the_two_nearest() -> None:
    # Ten values: p50 lies at 4.5, p90 at 8.1, p95 at 8.55, p99 at 8.91, counted from 0.
    result = figures(*(row(k, latency_s=k + 1.0) for k in range(10)), window_s=100.0)
    found = [result[f"latency_p{q}_s"] for q in (50, 90, 95, 99)]
    assert found == pytest.approx([5.5, 9.1, 9.55, 9.91])
    assert result["ttft_p95_s"] == pytest.approx(0.25)
    assert result["tpot_p50_s"] == pytest.approx(np.median([(k + 1 - 0.25) / 3 for k in range(10)]))


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=40), st.lists(st.floats(0, 100), min_size=1, max_size=5))
def test_finite_percentiles_are_numpys(values: list[float], qs: list[float]) -> None:
    assert percentiles(np.array(values), qs) == pytest.approx(np.percentile(values, qs), abs=1e-6)


def test_a_failed_request_never_ends() -> None:
    def with_failures(good: int, failed: int) -> dict[str, Any]:
        rows = [row(k / 10) for k in range(good)]
        rows += [row(5 + k / 10, latency_s=0.01, ttft_s=None, error="refused") for k in range(failed)]
        return figures(*rows)

    # Of 21 the p95 is the 20th, of 20 it lies between the 19th and the 20th, which failed.
    assert with_failures(20, 1)["latency_p95_s"] == pytest.approx(1.0)
    result = with_failures(19, 1)
    assert (result["latency_p90_s"], result["latency_p95_s"]) == (pytest.approx(1.0), None)
    assert (result["ttft_p90_s"], result["ttft_p95_s"]) == (pytest.approx(0.25), None)
    assert result["latency_p95_s_ci"] is not None  # infinite, which is not unknown
    assert result["tpot_p95_s"] == pytest.approx(0.25)  # of replies alone
    assert (result["errors"], result["error_share"]) == ({"refused": 1}, 0.05)
    assert with_failures(0, 3)["latency_p50_s"] is None
    assert with_failures(0, 3)["tpot_p50_s_ci"] is None  # there is none


def test_the_first_text_of_a_reply_that_broke_off_did_come() -> None:
    assert figures(row(1, error="broken off"))["ttft_p50_s"] == pytest.approx(0.25)


def test_percentiles_of_infinite_values() -> None:
    assert percentiles(np.array([1.0, math.inf, math.inf]), [0, 10, 50]).tolist() == [1.0, math.inf, math.inf]


def test_times_are_of_what_was_sent_in_the_window_and_rates_of_what_ended_in_it() -> None:
    before_inside, inside, inside_after, before, after = row(-0.5), row(3), row(9.5, 4.0), row(-3), row(11)
    result = figures(before_inside, inside, inside_after, before, after)
    assert result["requests"] == 2
    assert result["latency_p50_s"] == pytest.approx(2.5)  # of 1 and 4
    assert result["replies_per_s"] == pytest.approx(0.2)  # the first two
    assert result["tokens_per_s"] == pytest.approx(0.8)


def test_goodput_is_the_rate_of_replies_that_keep_every_limit() -> None:
    rows = row(0), row(1, ttft_s=0.6), row(2, latency_s=2.0), row(3, error="refused"), row(4, completion_tokens=1)
    result = figures(*rows, limits=Limits(ttft_s=0.5, tpot_s=0.3, latency_s=1.5))
    # The second begins too late, the third is too slow by TPOT (1.75 / 3) and as a whole, the fourth failed.
    assert result["good_replies_per_s"] == pytest.approx(0.2)
    assert result["kept_limits"] == pytest.approx(2 / 5)
    assert figures(*rows)["good_replies_per_s"] is None
    assert figures(*rows, limits=Limits(ttft_s=0.6))["kept_limits"] == pytest.approx(4 / 5)  # a limit itself is kept


def test_cost_and_processor_seconds_a_reply() -> None:
    rows = [row(k) for k in range(5)]
    result = figures(*rows, cpu_s=8.0, users_cpu_s=0.4, price_per_hour=0.09)
    # 5 replies in 10 s are 1,800 an hour: 0.09 USD for 1,800 is 0.05 for 1,000.
    assert result["cost_per_1k"] == pytest.approx(0.05)
    assert result["cpu_s_per_reply"] == pytest.approx(1.6)
    assert (result["users_cpu_share"], result["users_core_share"]) == pytest.approx((0.05, 0.04))
    nothing = figures(row(1, error="refused"), cpu_s=8.0, price_per_hour=0.09)
    assert (nothing["cost_per_1k"], nothing["cpu_s_per_reply"]) == (None, None)
    assert figures(row(1), price_per_hour=0.0)["cost_per_1k"] == 0


def test_tokens_of_a_server_that_does_not_count_them_are_unknown() -> None:
    result = figures(row(0), row(1, completion_tokens=None))
    assert (result["tokens_per_s"], result["replies_per_s"]) == (None, pytest.approx(0.2))


def test_a_window_without_requests_has_no_times() -> None:
    result = figures(row(-5), limits=Limits(ttft_s=1.0))
    assert (result["requests"], result["latency_p95_s"], result["latency_p95_s_ci"], result["kept_limits"]) == (
        0,
        None,
        None,
        None,
    )


# Intervals.


def test_many_users_are_the_clusters_and_with_few_their_conversations() -> None:
    # Each user's requests are alike. Drawn one by one, the median would look far surer than it is.
    def of(users: int) -> tuple[float, float]:
        rows = [row(0, latency_s=1.0 + k % users, user=k % users, visit=k // users) for k in range(160)]
        return tuple(figures(*rows, users=users)["latency_p50_s_ci"])

    clustered, by_conversation = of(16), of(4)
    independent = bootstrap_percentiles([1.0 + k % 16 for k in range(160)], [str(k) for k in range(160)], [50])[0]
    assert clustered[1] - clustered[0] > 1.5 * (independent[1] - independent[0])
    assert by_conversation[1] - by_conversation[0] < 2  # 160 clusters, not 4


def test_the_bootstrap_draws_whole_clusters() -> None:
    # Two clusters, of 1s and of 3s: a draw is (1, 1), (1, 3) or (3, 3) with 1/4, 1/2, 1/4.
    assert bootstrap_percentiles([1, 1, 3, 3], ["a", "a", "b", "b"], [50]) == [(1.0, 3.0)]
    assert bootstrap_percentiles([1, 2, 3], ["a", "a", "a"], [50]) == [(2.0, 2.0)]
    low, high = bootstrap_percentiles([1.0, math.inf], ["a", "b"], [95])[0]
    assert (low, high) == (1.0, math.inf)


# Users carried within a limit.


@pytest.mark.parametrize(
    ("p95", "found"),
    [
        ({1: 0.5, 2: 0.9, 4: 1.5}, (2, 4, 2 + 2 * 0.1 / 0.6)),
        ({1: 0.5, 2: 1.0, 4: 1.5}, (2, 4, 2.0)),  # the limit itself is kept
        ({1: 1.1, 2: 0.9}, (0, 1, None)),  # luck above a level that fails does not count
        ({1: 0.5, 2: 1.2, 4: 0.8}, (1, 2, 1 + 0.5 / 0.7)),
        ({1: 0.5, 2: 0.6}, (2, None, None)),
        ({1: 0.5, 2: None}, (1, 2, 1.0)),  # infinite: nothing is known between
        ({1: 0.8, 2: 0.6, 4: 1.2}, (2, 4, 2 + 2 * 0.2 / 0.4)),  # from the highest point so far
        ({}, (0, None, None)),
    ],
)
def test_carried_is_the_largest_measured_level_below_which_none_fails(
    p95: dict[int, float | None], found: tuple[int, int | None, float | None]
) -> None:
    result = carried(p95, 1.0)
    assert (result.users, result.fails_at) == found[:2]
    assert result.estimate == (found[2] if found[2] is None else pytest.approx(found[2]))


@pytest.mark.parametrize("start", [(), (1,), (1, 2, 4, 8, 16, 32), (8,)])
def test_the_search_finds_the_most_users_to_a_tenth(start: tuple[int, ...]) -> None:
    for capacity in range(0, 200):
        p95: dict[int, float | None] = {n: 1.0 if n <= capacity else 2.0 for n in start}
        steps = 0
        while (users := next_level(p95, 1.0, 128)) is not None:
            assert users not in p95
            assert 1 <= users <= 128
            p95[users] = 1.0 if users <= capacity else 2.0
            steps += 1
        found = carried(p95, 1.0)
        assert found.users <= capacity
        if capacity >= 128:
            assert (found.users, found.fails_at) == (128, None)
        else:
            assert found.fails_at is not None
            assert capacity < found.fails_at <= found.users + max(1, found.users // 10)
        assert steps <= 12
