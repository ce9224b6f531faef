"""What a task type is: how it is asked, how an answer is read, what counts as correct.

A task knows no model and no metric beside its own accuracy. Curation and evaluation both score by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from distiller.schema import Conversation, Turn


@dataclass(frozen=True)
class Score:
    """`correct` is None where the turn has nothing to be checked by."""

    correct: bool | None
    missing: tuple[str, ...] = ()
    forbidden: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scorer:
    """Scores replies against a data set. `kind` is the report's `accuracy_kind`; None: no accuracy here."""

    kind: str | None
    score: ScoreMany
    note: str = ""


class ScoreMany(Protocol):
    def __call__(self, items: Sequence[ToScore], /) -> list[Score]: ...


@dataclass(frozen=True)
class ToScore:
    conversation: Conversation
    turn: Turn
    reply: str


class Task(Protocol):
    name: str

    def system_prompt(self, base: str, instructions: str = "") -> str:
        """What a model is told. `instructions`: what the teacher alone is told on top."""

    def question(self, query: str, policy: str) -> str:
        """The customer's message with the policy text that may be consulted for it."""

    def parse(self, text: str) -> str:
        """The answer in a model's raw text."""

    def scorer(self, data: Sequence[Conversation], training: Sequence[Conversation]) -> Scorer:
        """How replies to `data` are scored; `training` gives the known replies where there are no facts."""


@dataclass(frozen=True)
class FactCheck:
    """Which facts a reply leaves out, and which forbidden ones it states (the first alternative names each)."""

    missing: tuple[str, ...] = field(default=())
    forbidden: tuple[str, ...] = field(default=())
