"""References in the handbook's own words."""

from __future__ import annotations

from pathlib import Path

import pytest

from distiller.embedding import load_retrieval_encoder
from distiller.grounding import in_policy_words
from distiller.retrieval import PolicyIndex
from distiller.schema import Conversation, Message, read_conversations
from distiller.tasks.facts import states_any

HELPDESK = Path("datasets/helpdesk")
RETURNS, HOURS = "You can return a product within 30 days of delivery.", "We open at 9 am."


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> PolicyIndex:
    path = tmp_path_factory.mktemp("policies") / "policies.md"
    path.write_text(f"## Returns\n- {RETURNS}\n## Hours\n- {HOURS}\n")
    return PolicyIndex(path, load_retrieval_encoder())


def conversation(*turns: tuple[str, str, list[list[str]]]) -> Conversation:
    messages = [
        Message(role=role, content=text)  # type: ignore[arg-type]
        for query, reply, _ in turns
        for role, text in (("user", query), ("assistant", reply))
    ]
    return Conversation(id="a", messages=messages, metadata={"facts": [facts for _, _, facts in turns]})


def test_what_the_handbook_says_is_said_in_its_sentence(index: PolicyIndex) -> None:
    asked = conversation(
        ("Too late?", "Bad luck: the return time is 30 days. Did you try the app?", [["30 days"]]),
        ("And hours?", "From 9 am. Your parcel FH1 is here.", [["9 am"], ["FH1"]]),
        ("Thanks", "You're welcome, have a good day!", []),
    )
    (said,) = in_policy_words([asked], index, [[RETURNS, HOURS, ""]])
    # A fact that no line states stays in the agent's own sentence; a turn without facts stays whole.
    expected = [RETURNS, f"{HOURS} Your parcel FH1 is here.", "You're welcome, have a good day!"]
    assert [turn.reference for turn in said.turns()] == expected
    assert [turn.query for turn in said.turns()] == ["Too late?", "And hours?", "Thanks"]
    assert said.metadata["keep"] == [True, True, True]


def test_a_turn_whose_line_was_not_found_is_not_learned(index: PolicyIndex) -> None:
    asked = conversation(("Too late?", "The return time is 30 days.", [["30 days"]]), ("Thanks", "Bye!", []))
    (said,) = in_policy_words([asked], index, [[HOURS, HOURS]])
    assert said.metadata["keep"] == [False, True]


def test_the_support_desk_keeps_its_facts() -> None:
    conversations = read_conversations(HELPDESK / "validation.jsonl")
    index = PolicyIndex(HELPDESK / "policies.md", load_retrieval_encoder())
    policies = [[""] * len(c.turns()) for c in conversations]
    turns = [turn for c in in_policy_words(conversations, index, policies) for turn in c.turns()]
    lost = [
        (turn.reference, fact) for turn in turns for fact in turn.facts if not states_any(turn.reference or "", fact)
    ]
    assert lost == []
    handbook = {text for _, text in index.lines}
    quoting = sum(any(line in (turn.reference or "") for line in handbook) for turn in turns if turn.facts)
    assert quoting >= 0.95 * sum(bool(turn.facts) for turn in turns)
