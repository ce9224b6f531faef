"""Intervals and tests: hand-computed cases, properties, and scipy as referee."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sacrebleu.significance import PairedTest
from scipy.stats import binomtest

from evals.metrics.overlap import BLEU, CHRF, CorpusMetric
from evals.statistics import (
    Clustered,
    bootstrap_interval,
    cluster_sums,
    clustered_mean,
    clustered_share_interval,
    cohen_kappa,
    holm,
    paired_bootstrap,
    paired_permutation,
    ratio_interval,
    shared_ranks,
    wilson_interval,
)
from tests.tiny import REPLIES


def test_wilson_is_scipy_s() -> None:
    for k, n in ((0, 20), (1, 7), (13, 40), (20, 20)):
        referee = binomtest(k, n).proportion_ci(method="wilson")
        assert wilson_interval(k, n) == pytest.approx((referee.low, referee.high), abs=1e-9)


def test_cluster_sums_by_hand() -> None:
    rows = np.array([[1.0, 1], [0, 1], [1, 1]])
    assert cluster_sums(rows, ["b", "a", "b"]).tolist() == [[2, 2], [0, 1]]


def test_one_turn_a_conversation_is_plain_wilson() -> None:
    correct = np.array([1.0, 0, 0, 1, 0, 0, 0, 1])
    clusters = [str(k) for k in range(8)]
    low, high = clustered_share_interval(correct, clusters)
    plain = wilson_interval(3, 8)
    # The clustered variance has n − 1 in its denominator, so it is never narrower.
    assert low <= plain[0]
    assert high >= plain[1]
    assert (low, high) == pytest.approx(plain, abs=0.04)


def test_turns_that_agree_within_conversations_widen_the_interval() -> None:
    correct = np.repeat([1.0, 0, 0, 1, 0, 1, 0, 0], 4)
    together = clustered_share_interval(correct, list(np.repeat(list("abcdefgh"), 4)))
    apart = clustered_share_interval(correct, [str(k) for k in range(32)])
    assert together[1] - together[0] > 1.5 * (apart[1] - apart[0])
    # four turns that always agree say as much as one
    assert together == pytest.approx(wilson_interval(3 * 7 / 8, 7), abs=0.01)


def test_none_correct_takes_every_turn() -> None:
    assert clustered_share_interval(np.zeros(40), list("ab") * 20) == wilson_interval(0, 40)


def test_bootstrap_covers_and_repeats() -> None:
    generator = np.random.default_rng(1)
    hits = 0
    for _ in range(100):
        score = clustered_mean(generator.normal(0.3, 1, 60), [str(k // 2) for k in range(60)])
        low, high = bootstrap_interval(score, resamples=400)
        hits += low <= 0.3 <= high
    assert 85 <= hits <= 100
    assert bootstrap_interval(score) == bootstrap_interval(score)


def test_a_model_against_itself_is_even() -> None:
    values = np.random.default_rng(0).random(40)
    clusters = [str(k // 2) for k in range(40)]
    score = clustered_mean(values, clusters)
    difference, interval, p = paired_bootstrap(score, score)
    assert (difference, interval, p) == (0.0, (0.0, 0.0), 1.0)
    assert paired_permutation(values, values, clusters) == 1.0


def test_a_sure_difference_is_found_and_its_sign_turns() -> None:
    values = np.random.default_rng(0).random(60)
    clusters = [str(k // 3) for k in range(60)]
    a, b = clustered_mean(values + 0.2, clusters), clustered_mean(values, clusters)
    difference, (low, high), p = paired_bootstrap(a, b)
    assert difference == pytest.approx(0.2)
    assert low > 0.19
    assert high < 0.21
    assert p < 0.01
    assert paired_bootstrap(b, a)[0] == pytest.approx(-0.2)
    assert paired_permutation(values + 0.2, values, clusters) < 0.01


def test_permutation_by_hand() -> None:
    # Three conversations that all favour a by one turn: only all-plus and all-minus are as extreme, 2 of 8.
    p = paired_permutation(np.ones(3), np.zeros(3), list("abc"), resamples=20_000)
    assert p == pytest.approx(0.25, abs=0.02)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_ranks_are_shared_where_intervals_overlap() -> None:
    assert shared_ranks([(0.1, 0.3), (0.5, 0.7), (0.25, 0.6)]) == [2, 1, 1]


def test_kappa_by_hand() -> None:
    """Cohen's own kind of table: 35 of 50 agree, and 25 would by chance."""
    assert cohen_kappa(np.array([[20, 5], [10, 15]])) == pytest.approx((0.7 - 0.5) / (1 - 0.5))
    assert cohen_kappa(np.diag([3, 4, 5])) == 1.0
    assert cohen_kappa(np.array([[0, 5], [5, 0]])) == pytest.approx(-1.0)


def test_kappa_is_scikit_learn_s() -> None:
    from sklearn.metrics import cohen_kappa_score

    generator = np.random.default_rng(7)
    for _ in range(20):
        first = generator.integers(3, size=40)
        second = np.where(generator.random(40) < 0.5, first, generator.integers(3, size=40))
        table = np.zeros((3, 3))
        np.add.at(table, (first, second), 1)
        assert cohen_kappa(table) == pytest.approx(cohen_kappa_score(first, second, labels=[0, 1, 2]))


def test_kappa_of_one_label_or_of_nothing_is_undefined() -> None:
    assert np.isnan(cohen_kappa(np.diag([9, 0, 0])))
    assert np.isnan(cohen_kappa(np.zeros((3, 3))))


def test_a_ratio_s_interval_is_that_of_its_resamples() -> None:
    values = np.random.default_rng(2).random(80)
    clusters = [str(k // 2) for k in range(80)]
    a, b = clustered_mean(0.5 * values, clusters), clustered_mean(values, clusters)
    assert ratio_interval(a, b) == pytest.approx((0.5, 0.5))
    other = clustered_mean(np.random.default_rng(3).random(80), clusters)
    interval = ratio_interval(other, b)
    assert interval is not None
    assert interval[0] < other.value() / b.value() < interval[1]
    # A teacher that is wrong in all conversations but one is wrong in all of some resamples.
    one = clustered_mean(np.array([1.0] + [0.0] * 79), clusters)
    assert ratio_interval(other, one) is None


def test_halves_are_scores_too() -> None:
    """Votes: 12 won, 4 tied, 4 lost by 20 visitors. The mean is 0.7, and a tie varies less than a coin: plain Wilson."""
    scores = np.array([1.0] * 12 + [0.5] * 4 + [0.0] * 4)
    assert clustered_share_interval(scores, np.arange(20)) == pytest.approx(wilson_interval(14, 20))


@pytest.mark.parametrize("metric", [BLEU, CHRF], ids=lambda metric: metric.name)
@pytest.mark.parametrize("noise", [0.38, 0.36, 0.34])
def test_paired_bootstrap_is_sacrebleu_s(metric: CorpusMetric, noise: float) -> None:
    """Each turn a cluster, as sacrebleu draws: its scores to the digit, its interval and p within what chance leaves."""
    generator = np.random.default_rng(3)
    words = " ".join(REPLIES).split()

    def spoiled(text: str, share: float) -> str:
        return " ".join(w if generator.random() > share else str(generator.choice(words)) for w in text.split())

    references = [" ".join(generator.choice(words, size=generator.integers(6, 20))) for _ in range(150)]
    base, system = ([spoiled(text, share) for text in references] for share in (0.44, noise))
    referee = PairedTest(
        [("base", base), ("system", system)], {"metric": metric.make()}, [references], test_type="bs", n_samples=2000
    )
    _, found = referee()
    theirs: list[Any] = next(results for name, results in found.items() if name != "System")
    clusters = [str(k) for k in range(len(references))]
    a, b = (
        Clustered(cluster_sums(metric.counts(texts, references), clusters), metric.score) for texts in (system, base)
    )
    difference, _, p = paired_bootstrap(a, b)
    assert (b.value(), a.value()) == pytest.approx([result.score for result in theirs])
    assert difference == pytest.approx(theirs[1].score - theirs[0].score)
    low, high = bootstrap_interval(a)
    assert (high - low) / 2 == pytest.approx(theirs[1].ci, rel=0.12)
    assert p == pytest.approx(2 * theirs[1].p_value, abs=0.03)  # theirs is of one side
