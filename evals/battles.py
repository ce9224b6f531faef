"""What a battle is made of: two sides, their replies turn by turn, and a visitor's choice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Choice = Literal["a", "b", "tie", "both_bad"]
Mode = Literal["blind", "named"]
#: `judge`: an automatic battle, decided by a model.
Source = Literal["page", "api", "mcp", "judge"]
#: Why a vote is not rated: the names were known, shown or given away, or no person cast it.
WhyNot = Literal["named", "after_reveal", "api", "mcp", "judge", "leak"]


@dataclass(frozen=True)
class Side:
    """One of the two models. `label` is what the page calls it, `identity` tells its weights (a hash)."""

    model: str
    label: str = ""
    identity: str | None = None


@dataclass(frozen=True)
class Reply:
    """What one side said, or why it could not. `similarity`: cosine with the reference, where there is one."""

    text: str
    latency_s: float | None = None
    ttft_s: float | None = None
    tokens: int | None = None
    tokens_per_s: float | None = None
    similarity: float | None = None
    error: str | None = None

    @property
    def answered(self) -> bool:
        """An empty reply is an answer too, and a bad one."""
        return self.error is None


@dataclass(frozen=True)
class Turn:
    query: str
    a: Reply
    b: Reply


@dataclass(frozen=True)
class Opened:
    """`battle_id` may be shown to anyone; who has the `token` may vote, once."""

    battle_id: str
    token: str


@dataclass(frozen=True)
class Vote:
    battle_id: str
    choice: Choice
    turns_seen: int
    source: Source
    created: float
    counted: bool
    why_not: WhyNot | None


@dataclass(frozen=True)
class Battle:
    """What a share link shows. `a` and `b` are None as long as the names are hidden."""

    id: str
    created: float
    mode: Mode
    source: Source
    data_set: str | None
    conversation: str | None
    intent: str | None
    turns: tuple[Turn, ...]
    choice: Choice | None
    a: Side | None
    b: Side | None


@dataclass(frozen=True)
class Only:
    """Which votes: those on a model (on either side), an intent and so on. None takes all."""

    model: str | None = None
    intent: str | None = None
    data_set: str | None = None
    source: Source | None = None
    counted: bool | None = None
