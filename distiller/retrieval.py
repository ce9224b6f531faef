"""The policy text that matters for a query: sections of a Markdown file, nearest by embedding.

The teacher sees them; the student learns to answer without them, which is where much of its speed
comes from.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from distiller.embedding import Encoder
from distiller.errors import DataError
from distiller.schema import Message


class PolicyIndex:
    def __init__(self, path: Path, encoder: Encoder) -> None:
        """Reads the `## ` sections of `path`. Raises DataError where there is none."""
        parts = re.split(r"^## +", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
        self.sections = [part.strip() for part in parts if part.strip()]
        if not self.sections:
            raise DataError(f"{path}: holds no section that begins with '## '.")
        self.encoder = encoder
        lines = [(i, line) for i, section in enumerate(self.sections) for line in _lines(section)]
        self._line_section = [i for i, _ in lines]
        self._section_vectors = encoder.encode(self.sections)  # (sections, d)
        self._line_vectors = encoder.encode([line for _, line in lines])  # (lines, d)

    def search(self, queries: Sequence[str], k: int) -> list[list[str]]:
        """For each query the `k` nearest sections, the nearest first.

        A section counts by its own cosine and that of its nearest line: a question about one detail is
        far from the whole section, and one line alone may stand in a section about something else.
        """
        if not queries:
            return []
        import numpy as np

        vectors = self.encoder.encode(queries)
        line_scores = vectors @ self._line_vectors.T  # (queries, lines)
        best_line = np.full((len(queries), len(self.sections)), -1.0, dtype=line_scores.dtype)
        for line, section in enumerate(self._line_section):
            best_line[:, section] = np.maximum(best_line[:, section], line_scores[:, line])
        scores = vectors @ self._section_vectors.T + best_line
        return [[self.sections[i] for i in row.argsort()[::-1][:k]] for row in scores]


def _lines(section: str) -> list[str]:
    """Each line with the section's title before it; a section of one line is that line."""
    title, *rest = (line.strip().lstrip("-*0123456789. ") for line in section.splitlines() if line.strip())
    return [f"{title}: {line}" for line in rest] or [title]


def retrieval_query(messages: Sequence[Message]) -> str:
    """The last question with the exchange before it: "and how long does that take?" needs what went before."""
    said = [message.content for message in messages if message.role in {"user", "assistant"}]
    return "\n".join(said[-3:])
