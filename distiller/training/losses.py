"""Losses, pure. Each takes logits of shape (n, vocabulary) at n positions and labels (n,).

A position whose label is −100 counts nothing. The logits at a position are those that predict its
label: the caller has shifted by one. The result is a SUM over the valid positions: the trainer
divides once, by the global number of valid tokens, also under gradient accumulation.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

IGNORE = -100


def cross_entropy(student: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """−Σ log q(label): sequence-level KD when the text is the teacher's (Kim & Rush 2016, arXiv:1606.07947)."""
    return F.cross_entropy(student.float(), labels, ignore_index=IGNORE, reduction="sum")


def forward_kl(
    student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """τ²·Σ KL(p‖q) with p = softmax(teacher/τ), q = softmax(student/τ) (Hinton et al. 2015, arXiv:1503.02531).

    `teacher` may be logits or log-probabilities; both give the same p.
    """
    log_p = F.log_softmax(teacher.float() / temperature, dim=-1)
    log_q = F.log_softmax(student.float() / temperature, dim=-1)
    per_position = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
    return temperature**2 * per_position[labels != IGNORE].sum()
