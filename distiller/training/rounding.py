"""Weights rounded as an export will round them, pure, and the training that takes it into account.

Rounded to four bits after training, a small student loses several points of accuracy; trained with rounded weights, it
learns around the rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from distiller.export.gguf_file import BLOCK


def round_q4_0(weights: torch.Tensor) -> torch.Tensor:
    """(…, a multiple of 32) → the same shape, float32. A block's value of largest size becomes −8 steps, and every
    other one a whole number of steps from −8 to 7; the step is kept in 16 bits. As llama.cpp's Q4_0."""
    blocks = weights.float().unflatten(-1, (-1, BLOCK))
    largest = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True))
    step = largest / -8
    inverse = torch.where(step == 0, 0.0, 1 / step)
    whole = (blocks * inverse + 8.5).floor().clamp(0, 15) - 8
    return (whole * step.half().float()).flatten(-2)


def round_q8_0(weights: torch.Tensor) -> torch.Tensor:
    """The same with 127 steps to either side of 0, as llama.cpp's Q8_0."""
    blocks = weights.float().unflatten(-1, (-1, BLOCK))
    step = blocks.abs().amax(-1, keepdim=True) / 127
    inverse = torch.where(step == 0, 0.0, 1 / step)
    scaled = blocks * inverse
    whole = torch.sign(scaled) * (scaled.abs() + 0.5).floor()
    return (whole * step.half().float()).flatten(-2)


ROUNDINGS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"q4_0": round_q4_0, "q8_0": round_q8_0}


@contextmanager
def rounded(model: Any, quant: str | None) -> Iterator[None]:
    """Within it the matrices of `model` hold their rounded values; after it what they held before.

    Gradients taken within belong to the whole weights all the same: the straight-through estimator (Bengio et al. 2013,
    arXiv:1308.3432). Vectors, and matrices whose rows hold no whole number of blocks, stay whole, as in the export.
    """
    if quant is None:
        yield
        return
    matrices = [p for p in model.parameters() if p.ndim == 2 and p.shape[-1] % BLOCK == 0]
    whole = [p.data for p in matrices]
    for p in matrices:
        p.data = ROUNDINGS[quant](p.data).to(p.dtype)
    try:
        yield
    finally:
        for p, values in zip(matrices, whole, strict=True):
            p.data = values
