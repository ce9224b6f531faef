"""Parts of a data set: fixed, balanced, disjoint."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distiller.errors import DataError
from distiller.sampling import first_turns, split, stratified
from distiller.schema import Conversation, Message
from tests.tiny import talk


def data(sizes: dict[str, int]) -> list[Conversation]:
    return [talk(f"{intent}{k}", "Hi", intent=intent) for intent, size in sizes.items() for k in range(size)]


ALL = data({"a": 30, "b": 10, "c": 3})


def test_the_choice_is_fixed_and_in_file_order() -> None:
    first = stratified(ALL, 12, 0)
    assert first == stratified(list(ALL), 12, 0)
    assert first != stratified(ALL, 12, 1)
    order = [c.id for c in ALL]
    assert [c.id for c in first] == sorted((c.id for c in first), key=order.index)


def test_intents_have_equal_shares_as_far_as_they_reach() -> None:
    assert Counter(c.intent for c in stratified(ALL, 9, 0)) == {"a": 3, "b": 3, "c": 3}
    assert Counter(c.intent for c in stratified(ALL, 20, 0)) in ({"a": 9, "b": 8, "c": 3}, {"a": 8, "b": 9, "c": 3})


@pytest.mark.parametrize("size", [0, len(ALL), 1000])
def test_all(size: int) -> None:
    assert stratified(ALL, size, 0) == ALL


@given(
    sizes=st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 12), min_size=1),
    wanted=st.integers(1, 30),
    seed=st.integers(0, 99),
)
def test_shares_differ_by_one_at_most_where_there_is_enough(sizes: dict[str, int], wanted: int, seed: int) -> None:
    everything = data(sizes)
    chosen = stratified(everything, wanted, seed)
    assert len(chosen) == len({c.id for c in chosen}) == min(wanted, len(everything))
    counts = Counter(c.intent for c in chosen)
    most = max(counts.values())
    assert all(counts[intent] >= min(size, most - 1) for intent, size in sizes.items())


def test_split_is_disjoint_and_of_the_sizes_asked() -> None:
    parts = split(ALL, {"train": 20, "validation": 6, "test": 9}, 3)
    assert {name: len(part) for name, part in parts.items()} == {"train": 20, "validation": 6, "test": 9}
    ids = [c.id for part in parts.values() for c in part]
    assert len(set(ids)) == 35
    assert parts == split(ALL, {"train": 20, "validation": 6, "test": 9}, 3)


def test_split_of_too_few() -> None:
    with pytest.raises(DataError, match="44 conversations were asked for, and there are 43"):
        split(ALL, {"train": 40, "test": 4}, 0)


def test_first_turns_keep_whole_turns_and_their_facts() -> None:
    roles = [
        ("assistant", "Hello!"),
        ("user", "Q1"),
        ("tool", "42"),
        ("assistant", "A1"),
        ("user", "Q2"),
        ("assistant", "A2"),
    ]
    metadata = {"intent": "x", "facts": [[["one"]], [["two"]]]}
    messages = [Message(role=role, content=text) for role, text in roles]  # type: ignore[arg-type]
    conversation = Conversation(id="c", messages=messages, metadata=metadata)
    cut = first_turns(conversation, 1)
    assert [m.content for m in cut.messages] == ["Hello!", "Q1", "42", "A1"]
    assert cut.turns() == conversation.turns()[:1]
    assert cut.metadata == {"intent": "x", "facts": [[["one"]]]}
    assert first_turns(conversation, 0) is conversation
    assert first_turns(conversation, 5) is conversation
