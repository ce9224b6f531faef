"""Embedding similarity: the cosine of two replies' sentence vectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from distiller.embedding import Encoder, load_encoder


class Similarity:
    def __init__(self, name: str) -> None:
        self._encoder: Encoder = load_encoder(name)
        self.name = name
        self.truncated = 0
        self._known: dict[str, np.ndarray] = {}

    def cosines(self, replies: Sequence[str], references: Sequence[str]) -> np.ndarray:
        """(turns,), −1 to 1. An empty reply is like nothing: 0."""
        new = sorted({text for text in (*replies, *references) if text.strip() and text not in self._known})
        if new:
            self.truncated += self._encoder.truncated(new)
            self._known |= dict(zip(new, self._encoder.encode(new), strict=True))
        return np.array(
            [
                float(self._known[a] @ self._known[b]) if a.strip() and b.strip() else 0.0
                for a, b in zip(replies, references, strict=True)
            ]
        )
