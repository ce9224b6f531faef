"""What a support conversation is asked with, and when a reply to it is correct."""

from __future__ import annotations

from distiller.schema import Conversation
from distiller.tasks import TASKS, ToScore
from tests.tiny import talk

TASK = TASKS["conversation"]


def to_score(conversation: Conversation, *replies: str) -> list[ToScore]:
    return [ToScore(conversation, turn, reply) for turn, reply in zip(conversation.turns(), replies, strict=True)]


def test_system_prompt() -> None:
    assert TASK.system_prompt("Base.") == "Base."
    assert TASK.system_prompt("Base.", "Brief.") == "Base.\n\nBrief."
    assert TASK.question("When?", "- At 9.") == "Policy:\n- At 9.\n\nCustomer: When?"
    assert TASK.parse("  Hello \n") == "Hello"


def test_facts_decide_where_there_are_facts() -> None:
    data = [
        talk("a", "How long?", "30 days", "Thanks", "Bye", "Cost?", "None", facts=[[["30 days"]], None, [["free"]]])
    ]
    scorer = TASK.scorer(data, [])
    assert scorer.kind == "facts"
    first, second, third = scorer.score(to_score(data[0], "Within thirty days.", "Bye!", "It costs $5."))
    assert (first.correct, second.correct, third.correct) == (True, None, False)
    assert third.missing == ("free",)


def test_a_forbidden_statement_makes_a_reply_wrong_and_so_does_silence() -> None:
    data = [talk("a", "Fee?", "No", "And?", "No", forbidden=[[["restocking fee"]], [["restocking fee"]]])]
    scores = TASK.scorer(data, []).score(to_score(data[0], "There is a restocking fee.", " "))
    assert [s.correct for s in scores] == [False, False]
    assert scores[0].forbidden == ("restocking fee",)


def test_intents_decide_where_there_are_no_facts() -> None:
    training = [
        talk("a", "Refund?", "We refund the money to your card within a week.", intent="refund"),
        talk("b", "Open?", "Our shop opens at nine in the morning.", intent="hours"),
    ]
    data = [
        talk("c", "Money back?", "x", intent="refund"),
        talk("d", "When?", "x", intent="hours"),
        talk("e", "?", "x"),
    ]
    scorer = TASK.scorer(data, training)
    assert scorer.kind == "intent"
    replies = ["You get a refund to your card.", "You get a refund to your card.", "Hello"]
    items = [ToScore(c, c.turns()[0], reply) for c, reply in zip(data, replies, strict=True)]
    assert [s.correct for s in scorer.score(items)] == [True, False, None]
    assert scorer.score([ToScore(data[0], data[0].turns()[0], "")])[0].correct is False
    assert scorer.score([]) == []


def test_without_facts_or_intents_nothing_is_claimed() -> None:
    data = [talk("a", "Q", "A")]
    scorer = TASK.scorer(data, data)
    assert scorer.kind is None
    assert "neither facts nor intents" in scorer.note
    assert [s.correct for s in scorer.score(to_score(data[0], "A"))] == [None]
