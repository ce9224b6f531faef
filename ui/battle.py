"""A battle of the arena: who meets, which customer is replayed, what is stored, what a vote reveals. No Gradio here."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal

from distiller.errors import DistillerError, VoteError
from distiller.job import load_job
from distiller.schema import Conversation, read_conversations
from evals.battles import Choice, Reply, Side, Source, WhyNot
from evals.votes import VoteStore
from ui.exchange import Exchange, Transcript
from ui.job_form import QUICKSTART
from ui.models import draw_pair, label_of, offered

MAX_CUSTOMERS = 60


@dataclass(frozen=True)
class Customer:
    """A conversation whose customer can be replayed, line by line; `references` are what a good agent said."""

    title: str
    data_set: str
    conversation: str
    intent: str | None
    lines: tuple[str, ...]
    references: tuple[str | None, ...]


@dataclass
class Battle:
    """What one visitor's battle is. Changed in place, as the transcript in it; nobody else sees it."""

    mode: Literal["blind", "named"] = "blind"
    pair: tuple[str, str] | None = None
    transcript: Transcript = field(default_factory=Transcript)
    customer: Customer | None = None
    #: How many of the customer's lines were said.
    said: int = 0
    #: How many replies were asked for again: each draws with another seed.
    redrawn: int = 0
    id: str = ""
    token: str = ""
    choice: Choice | None = None
    #: Why the vote is kept apart from the rating, if it is.
    why_not: WhyNot | None = None
    #: Another battle stands in its place: nothing more of this one is shown.
    left: bool = False
    #: Why this battle takes no vote, if it does not.
    closed: str = ""

    def leave(self) -> None:
        self.left = self.transcript.ended = True

    @property
    def named(self) -> bool:
        """Whether the names are shown."""
        return self.mode == "named" or self.choice is not None

    @property
    def open_to_vote(self) -> bool:
        """Both have answered what was asked last, if only with nothing, and no vote was cast."""
        last = self.transcript.last
        answered = len(last) == 2 and all(exchange.state == "answered" for exchange in last)
        return answered and self.choice is None and not self.closed and bool(self.id)

    @property
    def next_line(self) -> str:
        """What the replayed customer says next; empty at the end, and where none is replayed."""
        return self.customer.lines[self.said] if self.customer and self.said < len(self.customer.lines) else ""

    def reference(self, turn: int) -> str | None:
        """The good agent's reply to `turn`, as long as the customer said what the script says."""
        if self.customer is None or turn >= len(self.customer.lines) or turn >= len(self.transcript.left):
            return None
        asked = [exchange.query for exchange in self.transcript.left[: turn + 1]]
        return self.customer.references[turn] if asked == list(self.customer.lines[: turn + 1]) else None

    def names(self) -> tuple[str, str]:
        """What stands above the two sides."""
        if self.pair is None or not self.named:
            return "Model A", "Model B"
        return f"A · {label_of(self.pair[0])}", f"B · {label_of(self.pair[1])}"


def begin(battle: Battle, pool: Callable[[], Sequence[str]]) -> tuple[str, str]:
    """Who meets: drawn from `pool` at the first question of a blind battle, the same two from then on."""
    if battle.pair is None:
        battle.pair = draw_pair(pool())
    return battle.pair


def record(battle: Battle, store: VoteStore, visitor: str, source: Source = "page") -> None:
    """Stores the turn that was answered last, and with the first one the battle; takes the replayed customer to the
    next line. Not before the reply: nobody should wait for the database."""
    last = battle.transcript.last
    if len(last) < 2 or battle.pair is None:
        return
    if battle.next_line and last[0].query == battle.next_line:
        battle.said += 1
    if not battle.id:
        sides = [Side(name, label_of(name), _identity(name)) for name in battle.pair]
        customer = battle.customer
        opened = store.open_battle(
            sides[0],
            sides[1],
            visitor=visitor,
            mode=battle.mode,
            source=source,
            data_set=customer.data_set if customer else None,
            conversation=customer.conversation if customer else None,
            intent=customer.intent if customer else None,
        )
        battle.id, battle.token = opened.battle_id, opened.token
    store.add_turn(battle.id, last[0].query, _reply(last[0]), _reply(last[1]))


def take_back(battle: Battle) -> None:
    """The last question was not asked: it can be asked once more."""
    query = battle.transcript.left.pop().query
    battle.transcript.right.pop()
    if battle.customer and battle.said and battle.customer.lines[battle.said - 1] == query:
        battle.said -= 1
    battle.redrawn += 1


def cast(battle: Battle, choice: Choice, store: VoteStore, visitor: str, source: Source = "page") -> None:
    """Stores the vote; from now on the names are shown. Raises VoteError."""
    if not battle.open_to_vote:
        raise VoteError("There is nothing to vote on: a battle takes one vote, after both have answered.")
    stored = store.vote(battle.id, battle.token, visitor, choice, len(battle.transcript.left), source)
    battle.choice, battle.why_not = choice, stored.why_not
    store.reveal(battle.id)


def shared(battle_id: str, store: VoteStore) -> Battle:
    """A battle from its link, to be read. Raises VoteError where there is none."""
    found = store.battle(battle_id)
    transcript = Transcript(
        left=[_exchange(turn.query, turn.a) for turn in found.turns],
        right=[_exchange(turn.query, turn.b) for turn in found.turns],
    )
    pair = (found.a.model, found.b.model) if found.a and found.b else None
    return Battle(found.mode, pair, transcript, id=found.id, choice=found.choice, closed="A shared battle, to be read.")


def customers() -> list[Customer]:
    """Customers of the newest complete run's test set, else of the shop's: with several turns first, intents mixed."""
    contestants = offered()
    run = next((c for name, c in contestants.items() if name.endswith("/student") and c.job), None)
    job = run.job if run and run.job else load_job(QUICKSTART, check_files=False)
    path = job.test_data
    if path is None or not path.exists():
        return []
    return _customers_in(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _customers_in(path: Path, written_ns: int) -> list[Customer]:
    try:
        found = [c for c in read_conversations(path, bad=[]) if 1 < len(c.turns()) < 6]
    except DistillerError:
        return []
    random.Random(0).shuffle(found)
    return [_customer(path, conversation) for conversation in found[:MAX_CUSTOMERS]]


def _customer(path: Path, conversation: Conversation) -> Customer:
    turns = conversation.turns()
    intent = conversation.intent
    first = turns[0].query.replace("\n", " ")
    title = f"{intent.replace('_', ' ')}: {first}" if intent else first
    return Customer(
        title if len(title) <= 90 else title[:89].rsplit(" ", 1)[0] + " …",
        path.parent.name,
        conversation.id,
        intent,
        tuple(turn.query for turn in turns),
        tuple(turn.reference for turn in turns),
    )


def similarities(battle: Battle) -> list[tuple[float, float] | None]:
    """For each turn the cosine of both replies with the reference; None where there is no reference."""
    from distiller.embedding import load_encoder

    references = [battle.reference(turn) for turn in range(len(battle.transcript.left))]
    if not any(references):
        return [None] * len(references)
    encoder = load_encoder()
    found: list[tuple[float, float] | None] = []
    for reference, a, b in zip(references, battle.transcript.left, battle.transcript.right, strict=False):
        if reference is None or not a.reply or not b.reply:
            found.append(None)
            continue
        vectors = encoder.encode([reference, a.reply, b.reply])
        found.append((float(vectors[0] @ vectors[1]), float(vectors[0] @ vectors[2])))
    return found


def _identity(name: str) -> str | None:
    """The hash of a student's weights: a run that was trained anew is another contestant."""
    if not name.startswith("run:"):
        return None
    from distiller.runs import find_run

    manifest = find_run(name.removeprefix("run:").partition("/")[0]).path("manifest.json")
    return json.loads(manifest.read_text("utf-8"))["student_sha256"][:16] if manifest.exists() else None


def _reply(exchange: Exchange) -> Reply:
    return Reply(
        exchange.reply,
        latency_s=exchange.latency_s,
        ttft_s=exchange.ttft_s,
        tokens=exchange.completion.completion_tokens if exchange.completion else None,
        tokens_per_s=exchange.tokens_per_s,
        error=exchange.error or ("stopped" if exchange.state == "stopped" else None),
    )


def _exchange(query: str, reply: Reply) -> Exchange:
    state: Literal["failed", "answered"] = "failed" if reply.error else "answered"
    return Exchange(query, state, reply.text, reply.error or "")
