"""The figures of a data card, by hand."""

from __future__ import annotations

import pytest

from distiller.describe import commonest_sentence, describe, distinct_2, near_duplicates
from tests.tiny import talk

LONG = "You can send it back within thirty days."


def test_distinct_2() -> None:
    assert distinct_2(["a b a b"]) == pytest.approx(2 / 3, abs=1e-3)  # ab, ba, ab
    assert distinct_2(["a b", "c d"]) == 1  # no bigram across texts
    assert distinct_2(["word"]) is None
    cut = distinct_2(["a b " * 5_000 + "c d e f"])
    assert cut == 0  # what comes after the first 10,000 bigrams does not count: 2 of them, rounded


def test_the_commonest_sentence_counts_replies_once_and_leaves_short_sentences_out() -> None:
    texts = [f"{LONG} Anything else?", f"Sure. {LONG.upper()} {LONG}", "Anything else?", "Anything else?"]
    assert commonest_sentence(texts) == 0.5
    assert commonest_sentence(["Yes."]) == 0
    assert commonest_sentence([]) is None


def test_near_duplicates() -> None:
    texts = ["You can return it within 30 days.", "You can return it within 30 days!", "The watch needs 40 minutes."]
    assert near_duplicates(texts) == pytest.approx(2 / 3, abs=1e-3)
    assert near_duplicates(texts[1:]) == 0
    assert near_duplicates(texts[:1]) is None


def test_a_set_as_a_whole() -> None:
    data = [
        talk(
            "a", "How long?", "Thirty days.", "And then?", "Nothing more.", intent="returns", facts=[[["30 days"]], []]
        ),
        talk("b", "Hello there you", intent="greeting"),
    ]
    figures = describe(data)
    assert (figures["conversations"], figures["turns"], figures["turns_a_conversation"]) == (2, 3, 1.5)
    assert (figures["intents"], figures["largest_intent"]) == (2, 0.5)
    assert (figures["words_a_query"], figures["words_a_reply"]) == (2.3, 2)
    assert (figures["shortest_reply"], figures["longest_reply"]) == (2, 2)
    assert figures["facts_a_turn"] == 0.33
    assert describe([talk("b", "Hello")])["words_a_reply"] is None
