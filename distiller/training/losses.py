"""Losses, pure. Each takes logits of shape (n, vocabulary) at n positions and labels (n,).

A position whose label is −100 counts nothing. The logits at a position are those that predict its
label: the caller has shifted by one. The result is a SUM over the valid positions: the trainer
divides once, by the global number of valid tokens, also under gradient accumulation.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

IGNORE = -100

#: (log p of the teacher, log q of the student), (n, outcomes) each → (n,).
Divergence = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def cross_entropy(student: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """−Σ log q(label): sequence-level KD when the text is the teacher's (Kim & Rush 2016, arXiv:1606.07947)."""
    return F.cross_entropy(student.float(), labels, ignore_index=IGNORE, reduction="sum")


def divergence_loss(
    divergence: Divergence,
    student: torch.Tensor,
    teacher: torch.Tensor,
    labels: torch.Tensor,
    temperature: float = 1.0,
) -> torch.Tensor:
    """τ²·Σ D(p, q) with p = softmax(teacher/τ), q = softmax(student/τ) (Hinton et al. 2015, arXiv:1503.02531).

    `teacher` may be logits or log-probabilities; both give the same p.
    """
    log_p = F.log_softmax(teacher.float() / temperature, dim=-1)
    log_q = F.log_softmax(student.float() / temperature, dim=-1)
    return temperature**2 * divergence(log_p, log_q)[labels != IGNORE].sum()


def forward_kl(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """KL(p‖q): the student covers all that the teacher may say."""
    return _kl(log_p, log_q)


def reverse_kl(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """KL(q‖p): the student says only what the teacher may say (Gu et al. 2023, MiniLLM, arXiv:2306.08543)."""
    return _kl(log_q, log_p)


def jsd(log_p: torch.Tensor, log_q: torch.Tensor, beta: float = 0.5) -> torch.Tensor:
    """β·KL(p‖m) + (1 − β)·KL(q‖m) with m = βp + (1 − β)q (Agarwal et al. 2023, GKD, arXiv:2306.13649).

    Its limits, each divided by what vanishes there, are the ends: β = 0 is KL(p‖q), β = 1 is KL(q‖p), as in TRL.
    """
    if beta == 0:
        return _kl(log_p, log_q)
    if beta == 1:
        return _kl(log_q, log_p)
    log_m = _log_mix(log_p, log_q, beta)
    return beta * _kl(log_p, log_m) + (1 - beta) * _kl(log_q, log_m)


def skew_kl(log_p: torch.Tensor, log_q: torch.Tensor, alpha: float = 0.1) -> torch.Tensor:
    """KL(p‖αp + (1 − α)q): forward KL whose gradient stays bounded (Ko et al. 2024, DistiLLM, arXiv:2402.03898)."""
    return _kl(log_p, _log_mix(log_p, log_q, alpha))


def skew_reverse_kl(log_p: torch.Tensor, log_q: torch.Tensor, alpha: float = 0.1) -> torch.Tensor:
    """KL(q‖(1 − α)p + αq): the same of reverse KL."""
    return _kl(log_q, _log_mix(log_q, log_p, alpha))


def total_variation(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """½ Σ |p − q|, from 0 to 1 (Wen et al. 2023, f-DISTILL, arXiv:2307.15190)."""
    return 0.5 * (log_p.exp() - log_q.exp()).abs().sum(-1)


#: What `hyperparameters.loss` may name beside `sequence`; `beta` is of jsd, `alpha` of the skewed two.
DIVERGENCES: dict[str, Callable[[float, float], Divergence]] = {
    "forward_kl": lambda beta, alpha: forward_kl,
    "reverse_kl": lambda beta, alpha: reverse_kl,
    "jsd": lambda beta, alpha: partial(jsd, beta=beta),
    "skew_kl": lambda beta, alpha: partial(skew_kl, alpha=alpha),
    "skew_reverse_kl": lambda beta, alpha: partial(skew_reverse_kl, alpha=alpha),
    "total_variation": lambda beta, alpha: total_variation,
}


def top_k_outcomes(
    student: torch.Tensor, ids: torch.Tensor, log_p: torch.Tensor, temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """(log p, log q), (n, k + 1) each, from (n, vocabulary) student logits and the teacher's k likeliest tokens: (n, k) ids
    and their log-probabilities at that temperature. All other tokens are one outcome more, log(1 − Σ p).

    Any divergence of the two is at most that of the whole distributions (data processing), and equal where p and q spread
    their rest alike; with k the whole vocabulary the last outcome has no probability, and they are the whole distributions.
    """
    log_q = F.log_softmax(student.float() / temperature, dim=-1)
    chosen = log_q.gather(-1, ids)
    rest = torch.ones_like(log_q).scatter(-1, ids, 0.0)
    log_rest_q = torch.logsumexp(log_q.masked_fill(rest == 0, -torch.inf), dim=-1, keepdim=True)
    rest_p = 1 - log_p.float().exp().sum(-1, keepdim=True)
    log_rest_p = torch.where(rest_p > 1e-6, rest_p.clamp_min(1e-30).log(), -torch.inf)
    return torch.cat([log_p.float(), log_rest_p], -1), torch.cat([chosen, log_rest_q], -1)


def _kl(log_a: torch.Tensor, log_b: torch.Tensor) -> torch.Tensor:
    """Σ a (log a − log b); an outcome that a never has adds nothing, whatever b is."""
    possible = log_a > -torch.inf
    difference = torch.where(possible, log_a, 0.0) - torch.where(possible, log_b, 0.0)
    return (log_a.exp() * difference).sum(-1)


def _log_mix(log_a: torch.Tensor, log_b: torch.Tensor, share: float) -> torch.Tensor:
    """log(share·a + (1 − share)·b)."""
    both = torch.stack([log_a + torch.log(torch.tensor(share)), log_b + torch.log(torch.tensor(1 - share))])
    return torch.logsumexp(both, dim=0)
