"""What a set of conversations is like: its size, its lengths, and how varied its wording is."""

from __future__ import annotations

import itertools
import re
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from distiller.schema import Conversation

#: Distinct-2 falls as a text grows, so it is taken over the same number of bigrams everywhere.
BIGRAMS = 10_000
NEAR = 0.95
LONG_SENTENCE = 7


def describe(conversations: Sequence[Conversation]) -> dict[str, Any]:
    """The figures of a data card.

    distinct_2: different bigrams over all bigrams of the first 10,000 of the replies (Li et al. 2016,
    arXiv:1510.03055). near_duplicates: share of the replies that have another one at a cosine of 0.95 or more.
    commonest_sentence: share of the replies with the sentence of seven words or more that most of them hold.
    """
    turns = [turn for conversation in conversations for turn in conversation.turns()]
    replies = [turn.reference for turn in turns if turn.reference]
    lengths = sorted(len(reply.split()) for reply in replies)
    intents = Counter(conversation.intent for conversation in conversations if conversation.intent)
    return {
        "conversations": len(conversations),
        "turns": len(turns),
        "turns_a_conversation": round(len(turns) / len(conversations), 2),
        "intents": len(intents),
        "largest_intent": round(max(intents.values()) / len(conversations), 3) if intents else None,
        "words_a_query": round(statistics.mean(len(turn.query.split()) for turn in turns), 1),
        "words_a_reply": round(statistics.mean(lengths), 1) if lengths else None,
        "shortest_reply": lengths[0] if lengths else None,
        "longest_reply": lengths[-1] if lengths else None,
        "facts_a_turn": round(sum(len(turn.facts) for turn in turns) / len(turns), 2),
        "distinct_2": distinct_2(replies),
        "near_duplicates": near_duplicates(replies),
        "commonest_sentence": commonest_sentence(replies),
    }


def distinct_2(texts: Sequence[str]) -> float | None:
    bigrams: list[tuple[str, str]] = []
    for text in texts:
        words = re.findall(r"[\w'$.@/-]+", text.lower())
        bigrams += itertools.pairwise(words)
    taken = bigrams[:BIGRAMS]
    return round(len(set(taken)) / len(taken), 3) if taken else None


def near_duplicates(texts: Sequence[str]) -> float | None:
    if len(texts) < 2:
        return None
    from distiller.embedding import load_encoder

    vectors = load_encoder().encode(texts)
    near = 0
    for start in range(0, len(vectors), 1024):
        # One of each row's neighbours is the text itself.
        near += int((((vectors[start : start + 1024] @ vectors.T) >= NEAR).sum(axis=1) > 1).sum())
    return round(near / len(texts), 4)


def commonest_sentence(texts: Sequence[str]) -> float | None:
    if not texts:
        return None
    counts: Counter[str] = Counter()
    for text in texts:
        sentences = (" ".join(part.lower().split()) for part in re.split(r"(?<=[.!?])\s+", text))
        counts.update({sentence for sentence in sentences if len(sentence.split()) >= LONG_SENTENCE})
    return round(max(counts.values(), default=0) / len(texts), 4)
