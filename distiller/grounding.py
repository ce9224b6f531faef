"""References in the handbook's own words.

People reword the policy every time they say it. A small model that learns from them rewords too, and
gets figures and conditions wrong; what it does well is to find the right sentence and repeat it. So
its targets are made from the references: what a reply takes from the handbook is said in the
handbook's sentences.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from distiller.retrieval import PolicyIndex
from distiller.schema import Conversation, Message, Turn
from distiller.tasks.facts import states_any

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def in_policy_words(
    conversations: Sequence[Conversation], index: PolicyIndex, policies: Sequence[Sequence[str]]
) -> list[Conversation]:
    """The conversations with each reference said in the sentences of the lines that it was given from.

    Every fact that a reference states is stated afterwards as well; a turn without facts stays as it is.
    `policies[c][t]` is the policy text beside the question of turn t: where it lacks a line of the
    reply, `metadata["keep"]` says that the turn is not to be learned, for it would teach to invent.
    """
    grounded = []
    given = index.answering(conversations)
    for conversation, policy, lines_of_turn in zip(conversations, policies, given, strict=True):
        messages = [Message(role="system", content=conversation.system)] if conversation.system else []
        keep = []
        for turn, lines in zip(conversation.turns(), lines_of_turn, strict=True):
            quotable = [index.lines[i][1] for i in lines] if turn.facts else []
            messages += turn.context
            if turn.reference is not None:
                messages.append(Message(role="assistant", content=_quoting(turn, turn.reference, quotable)))
            keep.append(all(line in policy[turn.index] for line in quotable))
        metadata = conversation.metadata | {"keep": keep}
        grounded.append(Conversation(id=conversation.id, messages=messages, metadata=metadata))
    return grounded


def _quoting(turn: Turn, reference: str, lines: Sequence[str]) -> str:
    """What no line states stays in the sentence of the reference."""
    missing = [fact for fact in turn.facts if not any(states_any(line, fact) for line in lines)]
    own = (s for s in _SENTENCE_END.split(reference) if any(states_any(s, fact) for fact in missing))
    return " ".join([*lines, *own]) if lines else reference
