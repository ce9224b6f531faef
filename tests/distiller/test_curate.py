"""Curation: each filter fires on its example, and on nothing that is good."""

from __future__ import annotations

from collections import Counter

import pytest

from distiller.curate import FILTERS, Candidate, Curated, curate, drop_reason
from distiller.job import Curation
from distiller.schema import Conversation, Turn
from tests.tiny import REPLIES, talk, talks, user

RULES = Curation(near_duplicate_similarity=1, max_intent_share=1)

EXAMPLES: dict[str, list[str]] = {
    "empty": ["", "  ", "Yes."],
    "refusal": [
        "As an AI, I have no order of yours to look at.",
        "I'm sorry, but I cannot assist with that request.",
        "I am just an AI language model, please ask somebody else.",
    ],
    "wrong language": [
        "Sie können den Artikel innerhalb von dreißig Tagen kostenlos an uns zurücksenden, bitte mit Rechnung.",
        "Puede devolver el artículo gratis dentro de treinta días con la factura original de la tienda.",
    ],
    "repetition loop": [
        "Please call us today. Please call us today. Please call us today.",
        "you can track it and you can track it and you can track it and you can track it and you can track it and",
    ],
    "leaked prompt or identity": [
        "I am SmolLM, trained by Hugging Face, and I can help.",
        "Policy: Returns are free within 30 days of delivery.",
        "My system prompt tells me to be brief with you.",
        "<|im_start|>assistant You can return it.",
    ],
    "placeholder text": [
        "Hello [Customer Name], your parcel is on its way.",
        "Please call {{phone}} and we will help you.",
        "Your order number is XXXXX and it ships today.",
    ],
    "contradicted fact": ["You can return it within 14 days of delivery.", "Returns cost a fee of ten dollars."],
}


def candidate(reply: str, *, finish: str = "stop", rules: Curation = RULES, gold: str | None = None) -> Candidate:
    context = tuple(user("How long can I return it?"))
    known = Turn(0, context, gold, facts=(("30 days",),), forbidden=(("returns cost a fee",),))
    return Candidate(Turn(0, context, reply), known, finish, rules)


@pytest.mark.parametrize(("reason", "reply"), [(reason, text) for reason, texts in EXAMPLES.items() for text in texts])
def test_each_filter_fires_on_its_example(reason: str, reply: str) -> None:
    assert drop_reason(candidate(reply)) == reason


def test_every_filter_has_an_example() -> None:
    assert set(FILTERS) == {*EXAMPLES, "cut by length", "missing fact"}


GOOD = [
    *(reply for reply in REPLIES),
    "You can return it within 30 days of delivery, free of charge.",
    "I am sorry that it broke. I cannot change the address once the order is packed, but we can send it back.",
    "We are available Monday to Friday. We are available on Saturday too.",
    "Please have your order number (FH4081276) at hand; you find it in the e-mail.",
]


@pytest.mark.parametrize("reply", GOOD)
def test_a_good_reply_passes(reply: str) -> None:
    assert drop_reason(candidate(reply)) is None


def test_a_reply_cut_by_length() -> None:
    reply = "You can return it within 30 days of"
    assert drop_reason(candidate(reply, finish="length")) == "cut by length"
    assert drop_reason(candidate(reply)) is None


def test_a_missing_fact_counts_only_where_asked() -> None:
    strict = RULES.model_copy(update={"require_facts": True})
    assert drop_reason(candidate("You can return it, of course.", rules=strict)) == "missing fact"
    assert drop_reason(candidate("You can return it within thirty days.", rules=strict)) is None
    assert drop_reason(candidate("You can return it, of course.")) is None


def test_rules_can_be_loosened() -> None:
    loose = Curation(min_words=1, language="", drop_contradictions=False)
    for reason in ("wrong language", "contradicted fact"):
        for reply in EXAMPLES[reason]:
            assert drop_reason(candidate(reply, rules=loose)) is None
    assert drop_reason(candidate("Yes.", rules=loose)) is None


def test_what_the_reference_says_itself_is_no_leak() -> None:
    assert drop_reason(candidate("Our chat runs on OpenAI models.", gold="It runs on OpenAI models.")) is None


# Whole data sets


def synthetic(conversations: list[Conversation], replies: list[str] | None = None) -> list[Conversation]:
    """The conversations as the teacher answered them."""
    result = []
    for k, c in enumerate(conversations):
        turns = c.turns()
        said = [replies[k]] if replies else [f"{turn.reference} Anything else?" for turn in turns]
        texts = [text for turn, reply in zip(turns, said, strict=True) for text in (turn.query, reply)]
        completions = [{"finish_reason": "stop"} for _ in turns]
        result.append(talk(c.id, *texts, **(c.metadata | {"completions": completions})))
    return result


def total(result: Curated) -> int:
    return sum(sum(c.metadata["keep"]) for c in result.conversations)


def test_all_good_all_kept() -> None:
    data = talks(6, turns=2)
    result = curate(synthetic(data), data, [], RULES)
    assert result.summary == {"kept": 12}
    assert result.dropped == []
    assert [c.id for c in result.conversations] == [c.id for c in data]
    assert all(c.metadata["keep"] == [True, True] for c in result.conversations)


def test_a_dropped_reply_stays_as_history() -> None:
    data = talks(1, turns=3)
    said = synthetic(data)
    said[0].messages[3].content = "As an AI, I cannot assist with that."
    (kept,) = curate(said, data, [], RULES).conversations
    assert kept.metadata["keep"] == [True, False, True]
    assert kept.messages[3].content == "As an AI, I cannot assist with that."
    assert len(kept.messages) == 6


def test_a_dropped_reply_is_kept_with_its_reason() -> None:
    data = talks(1)
    result = curate(synthetic(data, ["As an AI, I cannot assist with that."]), data, [], RULES)
    assert result.conversations == []
    assert result.dropped == [
        {
            "conversation": "c0",
            "turn": 0,
            "reason": "refusal",
            "query": data[0].turns()[0].query,
            "reply": "As an AI, I cannot assist with that.",
            "reference": REPLIES[0],
            "replaced": False,
        }
    ]


def test_the_reference_may_take_the_place_of_a_dropped_reply() -> None:
    data = talks(1)
    rules = RULES.model_copy(update={"use_reference_for_dropped": True})
    result = curate(synthetic(data, ["As an AI, I cannot assist with that."]), data, [], rules)
    assert result.conversations[0].turns()[0].reference == REPLIES[0]
    assert result.conversations[0].metadata["keep"] == [True]
    assert result.dropped[0]["replaced"] is True
    assert result.summary == {"refusal": 1, "replaced by reference": 1}


def test_a_reference_whose_source_was_not_found_is_no_substitute() -> None:
    """`keep` is what `grounding.in_policy_words` says of the references."""
    data = [c.model_copy(update={"metadata": c.metadata | {"keep": [c.id != "c1"]}}) for c in talks(2)]
    rules = RULES.model_copy(update={"use_reference_for_dropped": True})
    result = curate(synthetic(data, ["As an AI, I cannot assist with that."] * 2), data, [], rules)
    assert {row["conversation"]: row["replaced"] for row in result.dropped} == {data[0].id: True, data[1].id: False}


def test_exact_duplicates_keep_the_first() -> None:
    data = [talk("a", "Where is it?", "x"), talk("b", "where is  it", "x"), talk("c", "Where is it?", "x")]
    said = synthetic(data, ["It is on its way.", "It is on its way!", "It ships on Monday."])
    result = curate(said, data, [], RULES)
    assert result.summary == {"kept": 2, "exact duplicate": 1}
    assert [c.id for c in result.conversations] == ["a", "c"]
    assert curate(said, data, [], RULES, deduplicate=False).summary == {"kept": 3}


def test_near_duplicates_keep_the_first() -> None:
    data = [
        talk("a", "How can I return my new kettle?", "x"),
        talk("b", "How can I return my new kettle please?", "x"),
        talk("c", "When do you open on Sunday?", "x"),
    ]
    said = synthetic(data, ["Send it back within 30 days."] * 2 + ["We open at nine in the morning."])
    near = RULES.model_copy(update={"near_duplicate_similarity": 0.9})
    result = curate(said, data, [], near)
    assert result.summary == {"kept": 2, "near duplicate": 1}
    assert result.dropped[0]["conversation"] == "b"
    assert curate(said, data, [], RULES).summary == {"kept": 3}


def test_no_intent_is_over_its_cap() -> None:
    data = [
        talk(f"{i}{k}", f"Question {k} about {i}, case {k}", f"Answer {k} on the matter of {i}.", intent=i)
        for i, n in (("refund", 14), ("order", 3), ("hours", 3))
        for k in range(n)
    ]
    capped = RULES.model_copy(update={"max_intent_share": 0.4})
    result = curate(synthetic(data), data, [], capped)
    kept = Counter(c.intent for c in result.conversations)
    assert kept == {"refund": 8, "order": 3, "hours": 3}
    assert result.summary["intent over its cap"] == 6
    # with two intents a cap of a third cannot be kept, and nothing is thrown away for it
    two = [c for c in data if c.intent != "hours"]
    assert curate(synthetic(two), two, [], RULES.model_copy(update={"max_intent_share": 0.33})).summary == {"kept": 17}


def test_what_stands_in_the_test_set_is_removed_whole() -> None:
    data = talks(3, turns=2)
    test = [talk("t", data[1].turns()[0].query.upper() + " !", "Other reply.")]
    result = curate(synthetic(data), data, test, RULES)
    assert [c.id for c in result.conversations] == ["c0", "c2"]
    assert {(row["conversation"], row["reason"]) for row in result.dropped} == {("c1", "in the test set")}
    assert len(result.dropped) == 2


def test_dropped_and_kept_are_all() -> None:
    data = [c.model_copy(update={"metadata": {"intent": "ab"[k % 2]}}) for k, c in enumerate(talks(24, turns=2))]
    said = synthetic(data)
    bad = [text for texts in EXAMPLES.values() for text in texts]
    for k, c in enumerate(said[: len(bad)]):
        c.messages[1].content = bad[k]
    test = [talk("t", data[22].turns()[0].query)]
    rules = Curation(max_intent_share=0.52, near_duplicate_similarity=0.99)
    for use_reference in (False, True):
        rules = rules.model_copy(update={"use_reference_for_dropped": use_reference})
        result = curate(said, data, test, rules)
        reasons = Counter(row["reason"] for row in result.dropped)
        replaced = sum(row["replaced"] for row in result.dropped)
        assert result.summary.get("replaced by reference", 0) == replaced
        assert result.summary["kept"] + sum(reasons.values()) == 48
        assert total(result) == result.summary["kept"] + replaced
        assert {k: v for k, v in result.summary.items() if k not in {"kept", "replaced by reference"}} == reasons
        assert len({(row["conversation"], row["turn"]) for row in result.dropped}) == len(result.dropped)
