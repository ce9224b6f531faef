"""The order of the batches and the learning rate of each step: functions of the seed and the step alone."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence


def learning_rate_at(step: int, total: int, peak: float, warmup_ratio: float) -> float:
    """Linear warm-up to `peak`, then a cosine to a tenth of it."""
    warmup = max(1, round(total * warmup_ratio))
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return peak * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def length_grouped_batches(lengths: Sequence[int], batch_size: int, seed: int) -> list[list[int]]:
    """Every index once, in batches of like length, in an order that depends on the seed alone."""
    order = list(range(len(lengths)))
    generator = random.Random(seed)
    generator.shuffle(order)
    group = batch_size * 8
    batches: list[list[int]] = []
    for start in range(0, len(order), group):
        part = sorted(order[start : start + group], key=lambda i: -lengths[i])
        batches += [part[k : k + batch_size] for k in range(0, len(part), batch_size)]
    generator.shuffle(batches)
    return batches
