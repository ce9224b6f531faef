"""The policy text that matters for a query: single lines of a Markdown file's sections, by embedding.

Whole sections would be three times as long for the same recall, and a small model is easily led astray
by figures that do not belong to the question. Where conversations that were answered are at hand, a
line is found by the questions that it answered as well as by its own words: customers ask "wheres my
stuff" of a line that speaks of tracking.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from distiller.embedding import Encoder, vectors_file
from distiller.errors import DataError
from distiller.schema import Conversation, Message, Turn, history
from distiller.tasks.facts import states_any

if TYPE_CHECKING:
    import numpy as np

#: What a line's answered questions count beside its own words, and how many of the nearest are averaged.
#: Chosen on the support desk's validation set, where all facts of 85% of the turns then lie in three
#: lines, and of 66% without the questions.
_ANSWERED_WEIGHT = 4.0
_NEAREST = 3
#: The lines that may hold a fact of a reply: those nearest in meaning to the reply.
_CANDIDATES = 12
#: A reply without facts was given from the line nearest to it, if it is as near as this.
_SAME_MATTER = 0.6


class PolicyIndex:
    def __init__(self, path: Path, encoder: Encoder, answered: Sequence[Conversation] = ()) -> None:
        """Reads the `## ` sections of `path`; `answered` are conversations with references.

        Raises DataError where it cannot be read, or has no section.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: the policies cannot be read ({error}).") from None
        parts = re.split(r"^## +", text, flags=re.MULTILINE)[1:]
        sections = [part.strip() for part in parts if part.strip()]
        if not sections:
            raise DataError(f"{path}: holds no section that begins with '## '.")
        self.encoder = encoder
        self.titles = [section.splitlines()[0].strip() for section in sections]
        #: (section, text) of each line, in the order of the file.
        self.lines = [(i, text) for i, section in enumerate(sections) for text in _lines(section)]
        vectors = encoder.encode_once([*sections, *(f"{self.titles[i]}: {text}" for i, text in self.lines)])
        self._section_vectors, self._line_vectors = vectors[: len(sections)], vectors[len(sections) :]  # (…, d)
        self._answered = _AnsweredQuestions(self, answered) if answered else None

    def search(
        self, histories: Sequence[Sequence[Message]], k: int, ids: Sequence[str] = (), *, complete: bool = False
    ) -> list[str]:
        """For each history the `k` lines that matter most, the best one last: next to the question.

        A line's score: its cosine with the last exchange ("and how long does that take?" needs what went
        before), half that with the last question alone, that of its section with the exchange, and the
        nearness of the questions that it answered. `ids[n]` is the conversation of history n: its own
        questions do not count, or a training conversation would find itself. With `complete` the lines that
        the answer to an answered conversation was given from are always among the `k`: what was not found
        takes the place of the farthest.
        """
        import numpy as np

        if not histories:
            return []
        exchange, question = self._query_vectors(histories)
        own = exchange @ self._line_vectors.T, question @ self._line_vectors.T  # (histories, lines) each
        scores = own[0] + 0.5 * own[1] + (exchange @ self._section_vectors.T)[:, [i for i, _ in self.lines]]
        if self._answered:
            nearness = self._answered.nearness(exchange, question, ids or [""] * len(histories))
            # A line that has answered nothing yet stands for its own question.
            scores += _ANSWERED_WEIGHT * np.where(np.isnan(nearness), 0.5 * own[0] + own[1], nearness)
        found = [row.argsort()[::-1][:k][::-1].tolist() for row in scores]
        if complete and self._answered:
            turns = [sum(m.role == "user" for m in history) - 1 for history in histories]
            given = [self._answered.given.get(place, []) for place in zip(ids, turns, strict=True)]
            found = [_with(lines, needed) for lines, needed in zip(found, given, strict=True)]
        return [self.text(lines) for lines in found]

    def text(self, lines: Sequence[int] | np.ndarray) -> str:
        return "\n".join(f"- {self.lines[i][1]}" for i in lines)

    def answering(self, conversations: Sequence[Conversation]) -> list[list[list[int]]]:
        """Which lines each turn's reference was given from, by conversation and turn; empty where none is seen.

        For each fact the line nearest to the reply that states it; without facts the line nearest to it.
        """
        turns = [conversation.turns() for conversation in conversations]
        vectors = self.encoder.encode_once([turn.reference or "" for part in turns for turn in part])
        nearness = iter(vectors @ self._line_vectors.T)
        return [[self._answering_turn(turn, next(nearness)) for turn in part] for part in turns]

    def _answering_turn(self, turn: Turn, nearness: np.ndarray) -> list[int]:
        nearest = nearness.argsort()[::-1][:_CANDIDATES]
        if not turn.facts:
            return [int(nearest[0])] if turn.reference and nearness[nearest[0]] >= _SAME_MATTER else []
        stating = (next((int(i) for i in nearest if states_any(self.lines[i][1], f)), None) for f in turn.facts)
        return list(dict.fromkeys(i for i in stating if i is not None))

    def _query_vectors(
        self, histories: Sequence[Sequence[Message]], *, once: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """The last exchange and the last question of each history: two of (histories, d)."""
        said = [[m.content for m in history if m.role in {"user", "assistant"}] for history in histories]
        encode = self.encoder.encode_once if once else self.encoder.encode
        exchanges = ["\n".join(texts[-3:]) for texts in said]
        # In one call: the first question of a conversation is its exchange as well.
        vectors = encode([*exchanges, *(texts[-1] if texts else "" for texts in said)])
        return vectors[: len(said)], vectors[len(said) :]


def _with(lines: Sequence[int], needed: Sequence[int]) -> list[int]:
    """`lines`, farthest first, with those `needed` that are not among them in the place of the farthest others."""
    missing = [line for line in needed if line not in lines][: sum(line not in needed for line in lines)]
    result = list(lines)
    for line in missing:
        result[next(k for k, other in enumerate(result) if other not in needed)] = line
    return result


def write_vectors(policies: Path, answered: Sequence[Conversation], encoder: Encoder, out: Path) -> list[Path]:
    """Writes what the index embeds once to `out`, in 16 bits: a cosine keeps three digits. Gives the files."""
    import numpy as np

    written = []

    class Writing(Encoder):
        name = encoder.name

        def encode(self, texts: Sequence[str]) -> np.ndarray:
            return encoder.encode(texts)

        def encode_once(self, texts: Sequence[str]) -> np.ndarray:
            written.append(out / vectors_file(encoder, texts))
            vectors = self.encode(texts)
            np.save(written[-1], vectors.astype(np.float16))
            return vectors

        def truncated(self, texts: Sequence[str]) -> int:
            return encoder.truncated(texts)

    out.mkdir(parents=True, exist_ok=True)
    PolicyIndex(policies, Writing(), answered)
    return written


class _AnsweredQuestions:
    """The questions of answered conversations, by the lines that they were answered from."""

    def __init__(self, index: PolicyIndex, conversations: Sequence[Conversation]) -> None:
        import numpy as np

        histories: list[list[Message]] = []
        self._of_line: dict[int, list[int]] = defaultdict(list)
        #: (conversation, turn) → the lines that its reference was given from.
        self.given: dict[tuple[str, int], list[int]] = {}
        conversation_of: list[str] = []
        for conversation, lines_of_turn in zip(conversations, index.answering(conversations), strict=True):
            turns = conversation.turns()
            references = [turn.reference or "" for turn in turns]
            for turn, lines in zip(turns, lines_of_turn, strict=True):
                self.given[conversation.id, turn.index] = lines
                for line in lines:
                    self._of_line[line].append(len(histories))
                histories.append(history(turns, references, turn.index, None))
                conversation_of.append(conversation.id)
        self._conversations = np.array(conversation_of)
        self._exchange, self._question = index._query_vectors(histories, once=True)
        self._lines = len(index.lines)

    def nearness(self, exchange: np.ndarray, question: np.ndarray, ids: Sequence[str]) -> np.ndarray:
        """(histories, lines): the mean cosine of each line's nearest questions, the question alone counting twice;
        NaN for a line that answered none."""
        import numpy as np

        cosine = 0.5 * (exchange @ self._exchange.T) + question @ self._question.T  # (histories, questions)
        cosine[np.array(ids)[:, None] == self._conversations[None, :]] = 0.0
        nearness = np.full((len(cosine), self._lines), np.nan, dtype=cosine.dtype)
        for line, questions in self._of_line.items():
            nearness[:, line] = np.sort(cosine[:, questions], axis=1)[:, ::-1][:, :_NEAREST].mean(axis=1)
        return nearness


def _lines(section: str) -> list[str]:
    """What stands below the title, a line each; a section of one line is that line."""
    title, *rest = (line.strip().lstrip("-*0123456789. ") for line in section.splitlines() if line.strip())
    return rest or [title]
