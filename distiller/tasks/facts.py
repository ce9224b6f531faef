"""Whether a reply states a fact.

A fact is a list of alternatives; it is stated when one of them is. An alternative is stated when all
its words (stop words apart, in their stems, numbers normalised) stand close together in one sentence,
each number directly before its unit, and the sentence does not deny it. Its cases stand in
`tests/distiller/tasks/test_facts.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from distiller.tasks.base import FactCheck
from distiller.tasks.normalise import CLAUSE, NEGATORS, SENTENCE, tokens

_STOP = frozenset(
    [
        "a",
        "an",
        "the",
        "of",
        "to",
        "your",
        "you",
        "my",
        "our",
        "we",
        "us",
        "i",
        "it",
        "its",
        "is",
        "are",
        "be",
        "been",
        "was",
        "were",
        "will",
        "would",
        "can",
        "could",
        "may",
        "this",
        "that",
        "these",
        "those",
        "for",
        "in",
        "on",
        "at",
        "by",
        "with",
        "from",
        "as",
        "and",
        "or",
        "do",
        "does",
        "did",
        "have",
        "has",
        "had",
        "so",
        "then",
        "just",
        "also",
        "please",
        "up",
        "any",
        "there",
        "their",
        "they",
    ]
)
#: Further words that may stand between the words of a fact.
_SLACK = 5
_STRICT_SLACK = 2
#: How far before a fact its negation may stand.
_NEGATION_REACH = 4
#: "not only", "not yet" and "no problem" deny nothing; "no later than 30 days" neither, and "no longer" does.
_HARMLESS_AFTER_NEGATOR = frozenset(["only", "just", "worri", "problem", "matter", "until", "yet", "doubt"])
_HARMLESS_BEFORE_THAN = frozenset(["later", "longer", "more", "less", "fewer"])


def check_facts(reply: str, facts: Sequence[Sequence[str]], forbidden: Sequence[Sequence[str]] = ()) -> FactCheck:
    """Which of `facts` the reply leaves out and which of `forbidden` it states, each by its first alternative."""
    return FactCheck(
        missing=tuple(fact[0] for fact in facts if not states_any(reply, fact)),
        forbidden=tuple(fact[0] for fact in forbidden if states_any(reply, fact, strict=True)),
    )


def states_any(reply: str, alternatives: Sequence[str], *, strict: bool = False) -> bool:
    return any(states(reply, alternative, strict=strict) for alternative in alternatives)


def states(reply: str, alternative: str, *, strict: bool = False) -> bool:
    """`strict`, for what must not be said: all its words, in their order, hardly anything between them."""
    wanted_all = [t for t in tokens(alternative) if t not in {SENTENCE, CLAUSE}]
    negated = any(t in NEGATORS for t in wanted_all)
    places = [i for i, t in enumerate(wanted_all) if t not in NEGATORS]
    places = places if strict else [i for i in places if wanted_all[i] not in _STOP] or places
    wanted = [wanted_all[i] for i in places]
    gaps = [b - a for a, b in itertools.pairwise(places)]
    if not wanted:
        return False
    return any(_stated_in(sentence, wanted, gaps, negated, strict) for sentence in _sentences(tokens(reply)))


def contradicts(reply: str, facts: Sequence[Sequence[str]], forbidden: Sequence[Sequence[str]] = ()) -> str | None:
    """What the reply says against the facts: a forbidden statement, or another figure in the place of one
    that it leaves out ("14 days" where the fact is "30 days"). None where it says nothing against them."""
    for fact in forbidden:
        if states_any(reply, fact, strict=True):
            return fact[0]
    said = [t for t in tokens(reply) if t not in {SENTENCE, CLAUSE}]
    figures = [(a, b) for a, b in itertools.pairwise(said) if _is_number(a) and not _is_number(b)]
    for fact in facts:
        if states_any(reply, fact):
            continue
        wanted = [t for t in tokens(fact[0]) if t not in {SENTENCE, CLAUSE}]
        for number, unit in itertools.pairwise(wanted):
            if _is_number(number) and not _is_number(unit):
                for other, its_unit in figures:
                    if its_unit == unit and other != number:
                        return f"{other} {unit} for {number} {unit}"
    return None


def _is_number(token: str) -> bool:
    return token[0].isdigit() or (token[0] == "$" and len(token) > 1)


def _sentences(all_tokens: Sequence[str]) -> list[list[str]]:
    return [list(group) for is_end, group in itertools.groupby(all_tokens, lambda t: t == SENTENCE) if not is_end]


def _stated_in(sentence: list[str], wanted: list[str], gaps: list[int], negated: bool, strict: bool) -> bool:
    places = [[i for i, t in enumerate(sentence) if t == w] for w in wanted]
    if not all(places):
        return False
    has_number = any(_is_number(w) for w in wanted)
    reach = len(wanted) + (_STRICT_SLACK if strict else _SLACK)
    for start in sorted(i for found in places for i in found):
        chosen = _nearest(places, start, reach)
        if chosen is None or not _numbers_before_units(sentence, wanted, gaps, chosen):
            continue
        if strict and chosen != sorted(chosen):
            continue
        first, last = min(chosen), max(chosen)
        if negated:
            if _negators(sentence, first - _NEGATION_REACH, last + 3, chosen, stop_at_clause=True):
                return True
            continue
        # A short fact ("30 days", "business account") is denied by the word right before it alone.
        distance = 2 if has_number or len(wanted) <= 2 else _NEGATION_REACH
        until = first if has_number else last
        if not _negators(sentence, first - distance, until, chosen, stop_at_clause=True):
            return True
    return False


def _nearest(places: list[list[int]], start: int, reach: int) -> list[int] | None:
    """For each wanted token its first place in sentence[start : start + reach], no place taken twice."""
    chosen: list[int] = []
    for found in places:
        place = next((i for i in found if start <= i < start + reach and i not in chosen), None)
        if place is None:
            return None
        chosen.append(place)
    return chosen


def _numbers_before_units(sentence: list[str], wanted: list[str], gaps: list[int], chosen: list[int]) -> bool:
    """A number's next word follows it as closely as in the fact, with room for one more ("30 calendar days")."""
    for k in range(len(wanted) - 1):
        if _is_number(wanted[k]) and not wanted[k].startswith("$"):
            between = sentence[chosen[k] + 1 : chosen[k + 1]]
            near = 1 <= chosen[k + 1] - chosen[k] <= gaps[k] + 1
            if not near or CLAUSE in between or any(map(_is_number, between)):
                return False
    return True


def _negators(sentence: list[str], start: int, end: int, chosen: list[int], *, stop_at_clause: bool) -> bool:
    low = max(0, start)
    if stop_at_clause:
        first = min(chosen)
        low = max([low, *(i + 1 for i in range(low, first) if sentence[i] == CLAUSE)])
    for i in range(low, min(end + 1, len(sentence))):
        if i not in chosen and sentence[i] in NEGATORS:
            following, after = [*sentence[i + 1 : i + 3], "", ""][:2]
            harmless = following in _HARMLESS_AFTER_NEGATOR or (following in _HARMLESS_BEFORE_THAN and after == "than")
            if not harmless:
                return True
    return False
