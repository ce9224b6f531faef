"""Whether a reply states a fact: numbers, units, dates, money, ranges, negation, other words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distiller.schema import read_conversations
from distiller.tasks.facts import check_facts, contradicts, states
from tests.conftest import PROJECT

STATED = [
    ("30 days", "You have thirty days to return it."),
    ("30 days", "It is a 30-day return window."),
    ("30 days", "You must return it no later than 30 days after delivery."),
    ("within 30 days", "Returns are accepted within the 30 days after delivery."),
    ("free", "Shipping is free of charge."),
    ("$4.95", "Standard delivery costs 4.95 dollars."),
    ("$60", "Orders of 60 USD or more ship for free."),
    ("3 to 5 business days", "It takes between three and five working days."),
    ("2 pm", "Order before 14:00 and it comes tomorrow."),
    ("24 December", "We are closed on December 24th."),
    ("fernhill.example/track", "Track it at https://www.fernhill.example/track."),
    ("help@fernhill.example", "Write to HELP@FERNHILL.EXAMPLE!"),
    ("order number", "Have the number of your order ready."),
    ("refund to the original payment method", "We refund the payment method you originally used."),
    ("not refundable", "Gift cards are not refundable."),
    ("cannot be returned", "Sorry, opened software can't be returned."),
    ("cannot change the address", "Unfortunately nobody can change the address; we can not change it."),
    ("7 digits", "It is FH followed by seven digits."),
    ("25 percent", "You get 25% off."),
    ("two years", "The guarantee runs for 2 years."),
]
NOT_STATED = [
    ("30 days", "You have 14 days to return it."),
    ("30 days", "You have 30 hours, then 5 days."),
    ("30 days", ""),
    ("free", "Shipping is not free."),
    ("free", "Shipping isn't free."),
    ("$4.95", "Standard delivery costs $14.95."),
    ("3 to 5 business days", "It takes 5 business days."),
    ("2 pm", "Order before 2 am."),
    ("24 December", "We are closed on 25 December."),
    ("fernhill.example/track", "Track it at fernhill.example/returns."),
    ("not refundable", "Gift cards are refundable."),
    ("cannot be returned", "Opened software can be returned."),
    ("refund in 5 days", "We refund you. Delivery takes 5 days."),
    ("two years", "The guarantee runs for two months and it was bought a year ago."),
    ("order number", "Your order is on its way. Call this phone number."),
]


@pytest.mark.parametrize(("fact", "reply"), STATED)
def test_stated(fact: str, reply: str) -> None:
    assert states(reply, fact)


@pytest.mark.parametrize(("fact", "reply"), NOT_STATED)
def test_not_stated(fact: str, reply: str) -> None:
    assert not states(reply, fact)


@pytest.mark.parametrize(("fact", "_reply"), STATED)
def test_a_fact_states_itself(fact: str, _reply: str) -> None:
    assert states(fact, fact)
    assert states(fact, fact, strict=True)
    assert not states("Thank you for your message.", fact)


def test_a_forbidden_statement_has_to_be_said_in_its_order() -> None:
    assert states("Express delivery is free for you.", "express delivery is free", strict=True)
    assert not states("It is free with standard delivery, not express.", "express delivery is free", strict=True)
    assert not states("Express delivery is not free.", "express delivery is free", strict=True)


def test_check_facts_names_each_by_its_first_alternative() -> None:
    facts = [["30 days", "a month"], ["free"], ["order number"]]
    forbidden = [["14 days"], ["fee of $5"]]
    check = check_facts("Within a month, for a fee of $5.", facts, forbidden)
    assert check.missing == ("free", "order number")
    assert check.forbidden == ("fee of $5",)
    whole = check_facts("Free within 30 days, with the order number.", facts, forbidden)
    assert (whole.missing, whole.forbidden) == ((), ())


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("You have 14 days.", "14 day for 30 day"),
        ("You have 30 days.", None),
        ("You may return it.", None),
        ("You have 30 days; after 14 days we ask for a reason.", None),
        ("There is a restocking fee.", "restocking fee"),
        ("There is no restocking fee.", None),
        ("You have 14 hours.", None),
    ],
)
def test_contradictions(reply: str, expected: str | None) -> None:
    assert contradicts(reply, [["30 days"]], [["restocking fee"]]) == expected


DATA = sorted((PROJECT / "datasets" / "helpdesk").glob("*.jsonl"))


@pytest.mark.skipif(not DATA, reason="datasets/helpdesk holds no conversations yet")
@pytest.mark.parametrize("path", DATA or [Path("none")], ids=lambda p: p.name)
def test_the_references_state_their_facts_and_nothing_forbidden(path: Path) -> None:
    wrong, checked = [], 0
    for conversation in read_conversations(path):
        for turn in conversation.turns():
            if turn.reference is None or not (turn.facts or turn.forbidden):
                continue
            checked += 1
            check = check_facts(turn.reference, turn.facts, turn.forbidden)
            if check.missing or check.forbidden:
                wrong.append((conversation.id, turn.index, check.missing, check.forbidden))
    assert checked
    assert wrong == []


FOLDER = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("name", "at_least"),
    [
        ("judged_replies", 0.95),  # 120 of the domain teacher's replies to test questions, drawn at random
        ("reworded_replies", 0.8),  # written or chosen to be hard: free rewordings, right figures for the wrong thing
    ],
)
def test_judgements_agree_with_people_s(name: str, at_least: float) -> None:
    """Rows of {"reply", "facts", "forbidden", "correct"}, judged by reading alone."""
    rows = [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text("utf-8").splitlines()]
    assert len(rows) >= 100
    assert 0.2 < sum(row["correct"] for row in rows) / len(rows) < 0.8
    checks = [check_facts(row["reply"], row["facts"], row["forbidden"]) for row in rows]
    agreed = sum((not c.missing and not c.forbidden) == row["correct"] for c, row in zip(checks, rows, strict=True))
    assert agreed >= at_least * len(rows)
