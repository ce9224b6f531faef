"""The policy text that matters for a query."""

from __future__ import annotations

from pathlib import Path

import pytest

from distiller.embedding import load_retrieval_encoder
from distiller.errors import DataError
from distiller.retrieval import PolicyIndex
from distiller.schema import Conversation
from tests.tiny import talk

POLICIES = """# Handbook

Some words before.

## Returns
- Return anything within 30 days.
- A penguin costume cannot be returned.

## Opening hours
- We open at nine.

## Empty of lines
"""


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> PolicyIndex:
    path = tmp_path_factory.mktemp("policies") / "policies.md"
    path.write_text(POLICIES)
    return PolicyIndex(path, load_retrieval_encoder())


def test_the_nearest_line_is_found(index: PolicyIndex) -> None:
    assert index.titles == ["Returns", "Opening hours", "Empty of lines"]
    asked = [talk("a", text).messages for text in ("When are you open?", "How long may I keep it?", "And penguins?")]
    opening, returns, penguins = index.search(asked, 1)
    assert opening == "- We open at nine."
    assert returns == "- Return anything within 30 days."
    assert penguins == "- A penguin costume cannot be returned."
    assert index.search(asked[1:2], 2) == [f"{penguins}\n{returns}"]  # the best one next to the question
    assert index.search([], 2) == []


VAGUE = "how long have I got today?"


def answered(id: str, query: str, reply: str, *facts: str) -> Conversation:
    conversation = talk(id, query, reply)
    return conversation.model_copy(update={"metadata": {"facts": [[[fact] for fact in facts]]}})


def with_questions(tmp_path: Path, *conversations: Conversation) -> PolicyIndex:
    path = tmp_path / "policies.md"
    path.write_text(POLICIES)
    return PolicyIndex(path, load_retrieval_encoder(), conversations)


def test_a_line_is_found_by_the_questions_that_it_answered(index: PolicyIndex, tmp_path: Path) -> None:
    asked = [talk("test", "and how long have I got").messages]
    assert index.search(asked, 1) != ["- We open at nine."]
    taught = with_questions(tmp_path, answered("a", VAGUE, "You need not hurry, we open at nine.", "nine"))
    assert taught.search(asked, 1) == ["- We open at nine."]


def test_a_conversation_does_not_find_its_own_questions(index: PolicyIndex, tmp_path: Path) -> None:
    taught = with_questions(tmp_path, answered("a", VAGUE, "You need not hurry, we open at nine.", "nine"))
    asked = [talk("a", VAGUE).messages] * 2
    own, another = taught.search(asked, 1, ["a", "b"])
    assert another == "- We open at nine."
    assert own != another


def test_the_lines_that_a_reply_was_given_from(index: PolicyIndex) -> None:
    both = answered("a", "Costume?", "No penguin costume, and 30 days for the rest.", "penguin costume", "30 days")
    nowhere = answered("b", "Costume?", "It costs $7.", "$7")
    thanks = talk("c", "Thank you!", "You are welcome.")
    near = talk("d", "And when?", "We are open at nine.")
    returns, penguins, opening = 0, 1, 2
    assert index.answering([both, nowhere, thanks, near]) == [[[penguins, returns]], [[]], [[]], [[opening]]]


def test_a_complete_lookup_holds_the_lines_that_the_answer_was_given_from(tmp_path: Path) -> None:
    """Turn by turn, in the place of the farthest line; what was found already stays where it is."""
    both = answered(
        "a", "Opening hours?", "No penguin costume, and 30 days for the rest.", "penguin costume", "30 days"
    )
    taught = with_questions(tmp_path, both)
    asked = [both.messages[:1]]
    returns, penguins = "- Return anything within 30 days.", "- A penguin costume cannot be returned."
    assert "nine" in taught.search(asked, 1, ["a"])[0]
    assert taught.search(asked, 1, ["a"], complete=True) == [penguins]
    assert set(taught.search(asked, 2, ["a"], complete=True)[0].split("\n")) == {returns, penguins}
    first, *_, last = taught.search(asked, 3, ["a"], complete=True)[0].split("\n")
    assert first != last == taught.search(asked, 1, ["a"])[0]
    # Another conversation, and a turn that nobody answered, get what is found.
    for ids, history in ((["b"], both.messages[:1]), (["a"], [*both.messages, *both.messages[:1]])):
        assert taught.search([history], 1, ids, complete=True) == taught.search([history], 1, ids)


def test_a_file_without_sections(tmp_path: Path) -> None:
    path = tmp_path / "p.md"
    path.write_text("# Only a title\nand words")
    with pytest.raises(DataError, match="no section that begins with '## '"):
        PolicyIndex(path, load_retrieval_encoder())


def test_a_question_is_read_with_the_exchange_before_it(index: PolicyIndex) -> None:
    messages = talk("a", "Do you take penguin costumes back?", "No.", "And why is that?").messages
    assert index.search([messages], 1) == ["- A penguin costume cannot be returned."]
