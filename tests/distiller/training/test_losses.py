"""Losses: pure functions with known values."""

from __future__ import annotations

import math

import pytest
import torch

from distiller.training import losses
from distiller.training.losses import DIVERGENCES, IGNORE, cross_entropy, divergence_loss, top_k_outcomes


def forward_kl(
    student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    return divergence_loss(losses.forward_kl, student, teacher, labels, temperature)


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


NAMES = sorted(DIVERGENCES)


@pytest.mark.parametrize("name", NAMES)
def test_every_divergence_is_zero_for_one_distribution_and_positive_for_two(
    name: str, generator: torch.Generator
) -> None:
    divergence = DIVERGENCES[name](0.3, 0.1)
    student, teacher = torch.randn(2, 6, 40, generator=generator)
    assert torch.allclose(divergence(teacher.log_softmax(-1), teacher.log_softmax(-1)), torch.zeros(6), atol=1e-6)
    assert (divergence(teacher.log_softmax(-1), student.log_softmax(-1)) > 0.01).all()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("forward_kl", 0.5 * math.log(2) + 0.5 * math.log(0.5 / 0.75)),
        ("reverse_kl", 0.25 * math.log(0.5) + 0.75 * math.log(1.5)),
        # m = (0.35, 0.65) with beta = 0.4
        ("jsd", 0.4 * (0.5 * math.log(0.5 / 0.35) + 0.5 * math.log(0.5 / 0.65))
            + 0.6 * (0.25 * math.log(0.25 / 0.35) + 0.75 * math.log(0.75 / 0.65))),
        # 0.2 p + 0.8 q = (0.3, 0.7)
        ("skew_kl", 0.5 * math.log(0.5 / 0.3) + 0.5 * math.log(0.5 / 0.7)),
        # 0.8 p + 0.2 q = (0.45, 0.55)
        ("skew_reverse_kl", 0.25 * math.log(0.25 / 0.45) + 0.75 * math.log(0.75 / 0.55)),
        ("total_variation", 0.25),
    ],
)  # fmt: skip
def test_two_tokens_by_hand(name: str, expected: float) -> None:
    """p = (1/2, 1/2), q = (1/4, 3/4)."""
    log_p, log_q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    value = DIVERGENCES[name](0.4, 0.2)(log_p, log_q)
    assert float(value) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_finite_differences(name: str, generator: torch.Generator) -> None:
    """In float64; total variation away from its kinks."""
    divergence = DIVERGENCES[name](0.7, 0.1)
    student, teacher = torch.randn(2, 3, 7, generator=generator, dtype=torch.float64)
    log_p = teacher.log_softmax(-1)
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: divergence(log_p, s.log_softmax(-1)).sum(), (student,))


@pytest.mark.parametrize("name", NAMES)
def test_what_the_teacher_never_says_gives_no_nan(name: str) -> None:
    log_p = torch.tensor([[0.5, 0.5, 0.0]]).log()
    student = torch.tensor([[0.1, 0.2, -1.0]], requires_grad=True)
    value = DIVERGENCES[name](0.5, 0.1)(log_p, student.log_softmax(-1)).sum()
    assert not value.isnan()
    if name != "reverse_kl":  # there it is infinite: the student says what the teacher never does
        value.backward()
        assert student.grad is not None
        assert student.grad.isfinite().all()


def test_jsd_goes_over_into_both_kls(generator: torch.Generator) -> None:
    """Divided by what vanishes: jsd(beta)/beta tends to KL(p, q), and jsd(beta)/(1 - beta) to KL(q, p)."""
    log_p, log_q = torch.randn(2, 5, 30, generator=generator, dtype=torch.float64).log_softmax(-1)
    small = 1e-4
    assert torch.allclose(losses.jsd(log_p, log_q, small) / small, losses.forward_kl(log_p, log_q), rtol=1e-2)
    assert torch.allclose(losses.jsd(log_p, log_q, 1 - small) / small, losses.reverse_kl(log_p, log_q), rtol=1e-2)
    assert torch.equal(losses.jsd(log_p, log_q, 0.0), losses.forward_kl(log_p, log_q))
    assert torch.equal(losses.jsd(log_p, log_q, 1.0), losses.reverse_kl(log_p, log_q))
    assert torch.allclose(losses.jsd(log_p, log_q, 0.3), losses.jsd(log_q, log_p, 0.7))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_likeliest_tokens_and_the_rest(name: str, temperature: float, generator: torch.Generator) -> None:
    """All of them: the whole distributions. Fewer: never more than the whole says, and more tokens say more."""
    divergence = DIVERGENCES[name](0.5, 0.1)
    student, teacher = 3 * torch.randn(2, 8, 60, generator=generator)
    log_p = (teacher / temperature).log_softmax(-1)
    whole = divergence(log_p, (student / temperature).log_softmax(-1))
    before = torch.zeros(8)
    for k in (1, 8, 30, 60):
        top = log_p.topk(k)
        value = divergence(*top_k_outcomes(student, top.indices, top.values, temperature))
        assert (value >= before - 1e-5).all()
        assert (value <= whole + 1e-5).all()
        before = value
    assert torch.allclose(before, whole, atol=1e-5)


def test_the_rest_by_hand() -> None:
    """p = (0.7, 0.2, 0.1), q = (0.5, 0.25, 0.25): of p the likeliest is kept, and the rest is 0.3 against 0.5."""
    student = torch.tensor([[0.5, 0.25, 0.25]]).log()
    log_p, log_q = top_k_outcomes(student, torch.tensor([[0]]), torch.tensor([[0.7]]).log())
    assert torch.allclose(log_p.exp(), torch.tensor([[0.7, 0.3]]))
    assert torch.allclose(log_q.exp(), torch.tensor([[0.5, 0.5]]))
