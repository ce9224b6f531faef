"""The policy text that matters for a query: single lines of a Markdown file's sections, by embedding.

Whole sections would be three times as long for the same recall, and a small model is easily led astray
by figures that do not belong to the question.
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
        sections = [part.strip() for part in parts if part.strip()]
        if not sections:
            raise DataError(f"{path}: holds no section that begins with '## '.")
        self.encoder = encoder
        self.titles = [section.splitlines()[0].strip() for section in sections]
        #: (section, text) of each line, in the order of the file.
        self.lines = [(i, text) for i, section in enumerate(sections) for text in _lines(section)]
        self._section_vectors = encoder.encode(sections)  # (sections, d)
        self._line_vectors = encoder.encode([f"{self.titles[i]}: {text}" for i, text in self.lines])  # (lines, d)

    def search(self, histories: Sequence[Sequence[Message]], k: int) -> list[str]:
        """For each history the `k` lines that matter most, in file order.

        A line's score: its cosine with the last exchange ("and how long does that take?" needs what went
        before), half that with the last question alone, and that of its section with the exchange.
        """
        if not histories:
            return []
        said = [[m.content for m in history if m.role in {"user", "assistant"}] for history in histories]
        exchange = self.encoder.encode(["\n".join(texts[-3:]) for texts in said])  # (histories, d)
        question = self.encoder.encode([texts[-1] if texts else "" for texts in said])
        section_of = [i for i, _ in self.lines]
        scores = exchange @ self._line_vectors.T + 0.5 * (question @ self._line_vectors.T)  # (histories, lines)
        scores += (exchange @ self._section_vectors.T)[:, section_of]
        chosen = [sorted(row.argsort()[::-1][:k]) for row in scores]
        return ["\n".join(f"- {self.lines[i][1]}" for i in indices) for indices in chosen]


def _lines(section: str) -> list[str]:
    """What stands below the title, a line each; a section of one line is that line."""
    title, *rest = (line.strip().lstrip("-*0123456789. ") for line in section.splitlines() if line.strip())
    return rest or [title]
