"""Taking a part of a data set: a fixed subset, in equal shares of its intents."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence

from distiller.errors import DataError
from distiller.schema import Conversation, Message


def stratified(conversations: Sequence[Conversation], size: int, seed: int) -> list[Conversation]:
    """`size` of them, one intent after the other in turn, in file order; all where `size` is 0 or too large.

    The choice depends on the conversations and the seed alone.
    """
    if size == 0 or size >= len(conversations):
        return list(conversations)
    by_intent: dict[str, list[int]] = defaultdict(list)
    for index, conversation in enumerate(conversations):
        by_intent[conversation.intent or ""].append(index)
    generator = random.Random(seed)
    for intent in sorted(by_intent):
        generator.shuffle(by_intent[intent])
    chosen: list[int] = []
    rank = 0
    while len(chosen) < size:
        layer = [indices[rank] for _, indices in sorted(by_intent.items()) if rank < len(indices)]
        generator.shuffle(layer)
        chosen += layer[: size - len(chosen)]
        rank += 1
    return [conversations[index] for index in sorted(chosen)]


def first_turns(conversation: Conversation, turns: int) -> Conversation:
    """The conversation up to the reply of its turn number `turns`; all of it where `turns` is 0."""
    kept = conversation.turns()
    if turns == 0 or len(kept) <= turns:
        return conversation
    asked = sum(message.role in {"user", "tool"} for turn in kept[:turns] for message in turn.context)
    messages: list[Message] = []
    for message in conversation.messages:
        asked -= message.role in {"user", "tool"}
        if asked < 0:  # the next turn begins
            break
        messages.append(message)
    cut = {
        key: value[:turns] for key, value in conversation.metadata.items() if key in {"facts", "forbidden"} and value
    }
    return conversation.model_copy(update={"messages": messages, "metadata": conversation.metadata | cut})


def split(conversations: Sequence[Conversation], sizes: dict[str, int], seed: int) -> dict[str, list[Conversation]]:
    """Disjoint stratified parts. Raises DataError when there are too few conversations."""
    if sum(sizes.values()) > len(conversations):
        raise DataError(f"{sum(sizes.values())} conversations were asked for, and there are {len(conversations)}.")
    rest, parts = list(conversations), {}
    for name, size in sizes.items():
        parts[name] = stratified(rest, size, seed) if size else []
        taken = {conversation.id for conversation in parts[name]}
        rest = [conversation for conversation in rest if conversation.id not in taken]
    return parts
