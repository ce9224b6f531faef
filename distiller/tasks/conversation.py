"""Multi-turn customer support."""

from __future__ import annotations

from collections.abc import Sequence

from distiller.schema import Conversation
from distiller.tasks.base import Score, Scorer, ToScore
from distiller.tasks.facts import check_facts


class ConversationTask:
    name = "conversation"

    def system_prompt(self, base: str, instructions: str = "") -> str:
        return "\n\n".join(filter(None, (base, instructions)))

    def question(self, query: str, policy: str) -> str:
        return f"Policy:\n{policy}\n\nCustomer: {query}"

    def parse(self, text: str) -> str:
        return text.strip()

    def scorer(self, data: Sequence[Conversation], training: Sequence[Conversation]) -> Scorer:
        turns = [turn for conversation in data for turn in conversation.turns()]
        if any(turn.facts or turn.forbidden for turn in turns):
            return Scorer("facts", _score_by_facts)
        if any(conversation.intent for conversation in data) and any(c.intent for c in training):
            return Scorer("intent", _IntentScorer(training))
        return Scorer(None, lambda items: [Score(None) for _ in items], "the data has neither facts nor intents")


def _score_by_facts(items: Sequence[ToScore]) -> list[Score]:
    scores = []
    for item in items:
        if not item.turn.facts and not item.turn.forbidden:
            scores.append(Score(None))
            continue
        check = check_facts(item.reply, item.turn.facts, item.turn.forbidden)
        empty = not item.reply.strip()
        scores.append(Score(not (check.missing or check.forbidden or empty), check.missing, check.forbidden))
    return scores


class _IntentScorer:
    """Correct: the reference reply of the training set nearest to this reply has the conversation's intent."""

    def __init__(self, training: Sequence[Conversation]) -> None:
        from distiller.embedding import load_encoder

        known = [(c.intent, t.reference) for c in training if c.intent for t in c.turns() if t.reference]
        self._intents = [intent for intent, _ in known]
        self._encoder = load_encoder()
        self._vectors = self._encoder.encode([reply for _, reply in known])

    def __call__(self, items: Sequence[ToScore], /) -> list[Score]:
        if not items:
            return []
        nearest = (self._encoder.encode([item.reply for item in items]) @ self._vectors.T).argmax(axis=1)
        return [
            Score(None)
            if item.conversation.intent is None
            else Score(bool(item.reply.strip()) and self._intents[k] == item.conversation.intent)
            for item, k in zip(items, nearest, strict=True)
        ]
