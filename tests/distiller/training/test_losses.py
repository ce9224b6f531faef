"""Losses: pure functions with known values."""

from __future__ import annotations

import math

import pytest
import torch

from distiller.training.losses import IGNORE, cross_entropy, forward_kl


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_kl_of_a_distribution_with_itself_is_zero(generator: torch.Generator) -> None:
    logits = torch.randn(7, 50, generator=generator)
    labels = torch.arange(7)
    for temperature in (0.5, 1.0, 4.0):
        assert float(forward_kl(logits, logits, labels, temperature)) == pytest.approx(0, abs=1e-5)
        # logits and log-probabilities are one distribution
        assert float(forward_kl(logits + 3, logits.log_softmax(-1), labels, temperature)) == pytest.approx(0, abs=1e-4)


def test_three_tokens_by_hand() -> None:
    """p = (1/2, 1/4, 1/4) against q = (1/4, 1/4, 1/2): ½·ln 2 + ¼·ln 1 − ¼·ln 2 = ¼·ln 2."""
    teacher = torch.tensor([[0.5, 0.25, 0.25]]).log()
    student = torch.tensor([[0.25, 0.25, 0.5]]).log()
    labels = torch.tensor([0])
    assert float(forward_kl(student, teacher, labels)) == pytest.approx(0.25 * math.log(2), rel=1e-6)
    assert float(cross_entropy(student, labels)) == pytest.approx(math.log(4), rel=1e-6)
    # it is the forward direction: KL of q = (0.9, 0.05, 0.05) has another value each way round
    sharp = torch.tensor([[0.9, 0.05, 0.05]]).log()
    forward = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.25 / 0.05)
    assert float(forward_kl(sharp, teacher, labels)) == pytest.approx(forward, rel=1e-5)


def test_temperature_softens_both_and_the_factor_is_its_square(generator: torch.Generator) -> None:
    student, teacher = torch.randn(2, 5, 40, generator=generator)
    labels = torch.zeros(5, dtype=torch.long)
    for temperature in (0.5, 2.0, 5.0):
        scaled = forward_kl(student / temperature, teacher / temperature, labels)
        got = forward_kl(student, teacher, labels, temperature)
        assert float(got) == pytest.approx(temperature**2 * float(scaled), rel=1e-5)


def test_it_is_what_torch_s_distributions_say(generator: torch.Generator) -> None:
    student, teacher = torch.randn(2, 9, 120, generator=generator, dtype=torch.float64) * 3
    labels = torch.zeros(9, dtype=torch.long)
    for temperature in (1.0, 2.5):
        p = torch.distributions.Categorical(logits=teacher / temperature)
        q = torch.distributions.Categorical(logits=student / temperature)
        expected = temperature**2 * torch.distributions.kl_divergence(p, q).sum()
        got = forward_kl(student, teacher, labels, temperature)
        assert float(got) == pytest.approx(float(expected), rel=1e-5)


def test_a_masked_position_changes_nothing(generator: torch.Generator) -> None:
    student, teacher = torch.randn(2, 6, 30, generator=generator)
    labels = torch.tensor([1, 2, IGNORE, 3, IGNORE, 4])
    wild_student, wild_teacher = student.clone(), teacher.clone()
    wild_student[2], wild_teacher[4] = 1e4, -1e4
    valid = labels != IGNORE
    for loss in (
        lambda s, t, y: cross_entropy(s, y),
        lambda s, t, y: forward_kl(s, t, y, 2.0),
    ):
        whole = float(loss(student, teacher, labels))
        assert float(loss(wild_student, wild_teacher, labels)) == pytest.approx(whole, rel=1e-6)
        assert float(loss(student[valid], teacher[valid], labels[valid])) == pytest.approx(whole, rel=1e-6)


def test_no_gradient_reaches_a_masked_position(generator: torch.Generator) -> None:
    student, teacher = torch.randn(2, 3, 10, generator=generator)
    student.requires_grad_()
    labels = torch.tensor([1, IGNORE, 2])
    (forward_kl(student, teacher, labels) + cross_entropy(student, labels)).backward()
    assert student.grad is not None
    assert float(student.grad[1].abs().max()) == 0
    assert float(student.grad[[0, 2]].abs().max()) > 0


def test_sums_over_parts_are_the_sum_of_the_whole(generator: torch.Generator) -> None:
    student, teacher = torch.randn(2, 8, 20, generator=generator)
    labels = torch.arange(8)
    whole = float(forward_kl(student, teacher, labels))
    parts = sum(float(forward_kl(student[k::3], teacher[k::3], labels[k::3])) for k in range(3))
    assert parts == pytest.approx(whole, rel=1e-5)


def test_half_precision_inputs_are_computed_in_float32() -> None:
    student = torch.tensor([[10.0, -10.0, 0.0]], dtype=torch.bfloat16)
    value = forward_kl(student, student, torch.tensor([0]))
    assert value.dtype == torch.float32
    assert float(value) == pytest.approx(0, abs=1e-6)
