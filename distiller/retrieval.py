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
        self._vectors = encoder.encode(self.sections)  # (sections, d)

    def search(self, queries: Sequence[str], k: int) -> list[list[str]]:
        """For each query the `k` nearest sections, the nearest first."""
        if not queries:
            return []
        scores = self.encoder.encode(queries) @ self._vectors.T  # (queries, sections)
        return [[self.sections[i] for i in row.argsort()[::-1][:k]] for row in scores]


def retrieval_query(messages: Sequence[Message]) -> str:
    """The last two things the customer said: "and how long does that take?" needs the one before."""
    said = [message.content for message in messages if message.role == "user"]
    return "\n".join(said[-2:])
