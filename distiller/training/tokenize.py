"""Conversations → token ids and labels. The mask is built from message boundaries.

A label is the token's own id where a reply is trained on (its end mark included) and −100 elsewhere;
the shift by one happens where the loss is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from distiller.chat.transformers_local import render_messages
from distiller.errors import TrainingError
from distiller.schema import Conversation, Message

IGNORE = -100


@dataclass(frozen=True)
class Example:
    """One conversation. `spans[t]` are [start, end) of the trained reply of turn t in `ids`; None: not trained."""

    id: str
    ids: tuple[int, ...]
    labels: tuple[int, ...]
    spans: tuple[tuple[int, int] | None, ...]

    @property
    def target_tokens(self) -> int:
        return sum(end - start for span in self.spans if span for start, end in [span])


def tokenize_conversation(conversation: Conversation, tokenizer: Any, max_length: int) -> Example:
    """Raises TrainingError when the chat template rewrites what came before (then no mask can be right).

    A conversation over `max_length` loses its earliest turns, whole.
    """
    turns = conversation.turns()
    keep = conversation.metadata.get("keep") or [True] * len(turns)
    for first in range(len(turns)):
        messages = [Message(role="system", content=conversation.system)] if conversation.system else []
        ids: list[int] = []
        spans: list[tuple[int, int] | None] = [None] * len(turns)
        rendered = ""
        for turn in turns[first:]:
            messages.extend(turn.context)
            if turn.reference is None:
                continue
            prompt = render_messages(tokenizer, messages, add_generation_prompt=True)
            messages.append(Message(role="assistant", content=turn.reference))
            full = render_messages(tokenizer, messages, add_generation_prompt=False)
            if not prompt.startswith(rendered) or not full.startswith(prompt):
                raise TrainingError(
                    f"{conversation.id}: the chat template changes earlier messages as the conversation grows, so "
                    "replies cannot be told apart from prompts. Use a model with a plain template."
                )
            reply = full[len(prompt) :].rstrip()
            # Prompt and reply are encoded apart, as they are when the model generates.
            ids += _encode(tokenizer, prompt[len(rendered) :])
            start = len(ids)
            ids += _encode(tokenizer, reply)
            if keep[turn.index] and turn.reference.strip():
                spans[turn.index] = (start, len(ids))
            rendered = prompt + reply
        if len(ids) <= max_length:
            break
    ids, spans = ids[:max_length], [span if span and span[1] <= max_length else None for span in spans]
    labels = [IGNORE] * len(ids)
    for span in spans:
        if span:
            labels[span[0] : span[1]] = ids[span[0] : span[1]]
    return Example(conversation.id, tuple(ids), tuple(labels), tuple(spans))


def tokenize_all(conversations: Sequence[Conversation], tokenizer: Any, max_length: int) -> list[Example]:
    """Those with something to learn from. Raises TrainingError when there is none: an empty mask trains nothing."""
    examples = [tokenize_conversation(c, tokenizer, max_length) for c in conversations]
    examples = [example for example in examples if example.target_tokens]
    if not examples:
        raise TrainingError(
            f"None of the {len(conversations)} training conversations has a reply to learn from within "
            f"max_length {max_length}. Look at dropped.jsonl, or raise hyperparameters.max_length."
        )
    return examples


def _encode(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False).input_ids
