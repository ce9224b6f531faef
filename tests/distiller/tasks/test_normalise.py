"""One thing written one way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distiller.tasks.normalise import CLAUSE, SENTENCE, tokens

SAME = [
    ("thirty days", "30 days", "30-day", "30 Days", "**30** days"),
    ("twenty-five percent", "25%", "25 percent", "25 per cent"),
    ("$5", "$5.00", "5 dollars", "USD 5", "5 USD", "five dollars", "US$5"),
    ("50 cents", "$0.50", "$0.5"),
    ("9 am", "9am", "9:00 a.m.", "09:00", "9 A.M."),
    ("2:30 pm", "14:30", "2.30 p.m.", "2:30PM"),
    ("noon", "12 pm", "12:00"),
    ("24th of December", "Dec 24", "December 24th", "24 December", "Dec. 24"),
    ("3-5 days", "between 3 and 5 days", "3 to 5 days", "3–5 days", "three to five days"),
    ("1,500 points", "1500 points", "1500 point"),
    ("5 kg", "5kg"),
    ("2 hours", "2 hrs", "two hours", "2h"),
    ("e-mail", "email", "emails", "mail"),
    ("Wi-Fi", "wifi", "WiFi", "wi fi"),
    ("business days", "working days", "workdays", "business-days"),
    ("can't", "cannot", "can not"),
    ("it doesn't", "it does not"),
    ("help@fernhill.example", "HELP@fernhill.example"),
    ("https://www.fernhill.example/track", "fernhill.example/track"),
    ("a week", "1 week", "one week"),
    ("twice", "2 times", "two times"),
    ("a hundred", "100", "one hundred"),
    ("colour", "color"),
    ("2 weeks", "14 days", "two weeks", "a fortnight"),
    ("2 years", "24 months", "two-year"),
    ("half a minute", "30 seconds"),
    ("a year and a half", "18 months"),
    ("free", "at no cost", "free of charge", "no extra charge"),
    ("order number", "order no.", "order ID", "order #"),
    ("postal code", "ZIP", "zip code", "postcode"),
    ("pickup point", "pick-up point"),
    ("returned", "sent back"),
    ("erases", "wipes", "deletes"),
    ("is kept", "is retained", "is preserved"),
]
DIFFERENT = [
    ("30 days", "13 days"),
    ("30 days", "30 hours"),
    ("$5", "5"),
    ("$5", "$50"),
    ("9 am", "9 pm"),
    ("2:30 pm", "2 pm"),
    ("24 December", "24 November"),
    ("3-5 days", "3 days"),
    ("1.5 kg", "15 kg"),
    ("0.5 m", "5 m"),
    ("2 weeks", "2 days"),
    ("1 year", "1 month"),
    ("free", "not free"),
    ("help@fernhill.example", "sales@fernhill.example"),
]


def plain(text: str) -> list[str]:
    return [t for t in tokens(text) if t not in {SENTENCE, CLAUSE}]


@pytest.mark.parametrize(("first", "other"), [(group[0], other) for group in SAME for other in group[1:]])
def test_one_thing_is_written_one_way(first: str, other: str) -> None:
    assert plain(other) == plain(first)


@pytest.mark.parametrize(("first", "other"), DIFFERENT)
def test_different_things_stay_different(first: str, other: str) -> None:
    assert plain(other) != plain(first)


def test_marks_part_sentences_and_clauses() -> None:
    assert tokens("Yes. It is free, but slow") == ("yes", SENTENCE, "it", "is", "free", CLAUSE, CLAUSE, "slow")
    assert SENTENCE not in tokens("It costs 4.95 at fernhill.example today")


@given(st.text(max_size=80))
def test_any_text_gives_tokens(text: str) -> None:
    found = tokens(text)
    assert all(found)
    assert tokens(text) == found
    assert plain(text.upper().lower()) == plain(text.upper().lower().lower())
