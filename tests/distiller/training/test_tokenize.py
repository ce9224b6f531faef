"""The loss mask: exactly the replies, their end mark included, and nothing of the prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from distiller.errors import TrainingError
from distiller.schema import Conversation, Message
from distiller.training.tokenize import IGNORE, Example, tokenize_all, tokenize_conversation
from tests.tiny import talk, with_system

END = "<|im_end|>"


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model)


THREE = talk("c", "Where is it?", "On its way.", "When?", "On Monday!", "Thanks", "You are welcome.")


def trained_texts(example: Example, tokenizer: Any) -> list[str]:
    return [tokenizer.decode(example.ids[span[0] : span[1]]) for span in example.spans if span]


def test_labels_cover_exactly_the_replies_with_their_end_marks(tokenizer: Any) -> None:
    example = tokenize_conversation(with_system(THREE, "Be brief."), tokenizer, 512)
    assert trained_texts(example, tokenizer) == [f"On its way.{END}", f"On Monday!{END}", f"You are welcome.{END}"]
    runs: list[list[int]] = [[]]
    for token, label in zip(example.ids, example.labels, strict=True):
        assert label in (IGNORE, token)
        if label == IGNORE:
            runs.append([])
        else:
            runs[-1].append(label)
    assert [tokenizer.decode(run) for run in runs if run] == trained_texts(example, tokenizer)
    assert example.target_tokens == sum(label != IGNORE for label in example.labels)
    whole = tokenizer.apply_chat_template(
        [{"role": "system", "content": "Be brief."}, *({"role": m.role, "content": m.content} for m in THREE.messages)],
        tokenize=False,
    )
    assert tokenizer.decode(example.ids) == whole.rstrip()


def test_a_prompt_is_encoded_as_the_model_will_see_it(tokenizer: Any) -> None:
    from distiller.chat.transformers_local import render_messages

    example = tokenize_conversation(with_system(THREE, "Be brief."), tokenizer, 512)
    start = example.spans[0][0]  # type: ignore[index]
    said = [Message(role="system", content="Be brief."), THREE.messages[0]]
    prompt = render_messages(tokenizer, said, add_generation_prompt=True)
    assert list(example.ids[:start]) == tokenizer(prompt, add_special_tokens=False).input_ids


def test_a_dropped_turn_stays_as_history_and_is_not_trained(tokenizer: Any) -> None:
    dropped = THREE.model_copy(update={"metadata": {"keep": [True, False, True]}})
    example = tokenize_conversation(dropped, tokenizer, 512)
    assert example.spans[1] is None
    assert trained_texts(example, tokenizer) == [f"On its way.{END}", f"You are welcome.{END}"]
    assert "On Monday!" in tokenizer.decode(example.ids)


def test_an_empty_reply_is_not_trained(tokenizer: Any) -> None:
    example = tokenize_conversation(talk("c", "A", "  ", "B", "Yes."), tokenizer, 512)
    assert trained_texts(example, tokenizer) == [f"Yes.{END}"]


def test_greetings_and_tools_are_prompt(tokenizer: Any) -> None:
    roles = [("assistant", "Welcome!"), ("user", "Q"), ("tool", "42"), ("assistant", "It is 42."), ("user", "Last?")]
    conversation = Conversation(id="c", messages=[Message(role=r, content=t) for r, t in roles])  # type: ignore[arg-type]
    example = tokenize_conversation(conversation, tokenizer, 512)
    assert trained_texts(example, tokenizer) == [f"It is 42.{END}"]
    assert len(example.spans) == 2
    assert example.spans[1] is None


def test_an_overlong_conversation_loses_its_earliest_turns(tokenizer: Any) -> None:
    whole = tokenize_conversation(with_system(THREE, "Be brief."), tokenizer, 512)
    shorter = tokenize_conversation(with_system(THREE, "Be brief."), tokenizer, len(whole.ids) - 1)
    assert trained_texts(shorter, tokenizer) == [f"On Monday!{END}", f"You are welcome.{END}"]
    assert shorter.spans[0] is None
    assert len(shorter.spans) == 3
    text = tokenizer.decode(shorter.ids)
    assert "Where is it?" not in text
    assert text.startswith("<|im_start|>system\nBe brief.")


def test_a_last_turn_that_does_not_fit_is_not_half_trained(tokenizer: Any) -> None:
    long = talk("c", "Q", "word " * 100)
    example = tokenize_conversation(long, tokenizer, 60)
    assert len(example.ids) == 60
    assert set(example.labels) == {IGNORE}
    assert example.target_tokens == 0


def test_an_empty_mask_fails_loudly(tokenizer: Any) -> None:
    with pytest.raises(TrainingError, match=r"None of the 2 training conversations has a reply.*max_length 60"):
        tokenize_all([talk("a", "Q", "word " * 100), talk("b", "Q")], tokenizer, 60)


def test_only_what_can_be_learned_from_is_kept(tokenizer: Any) -> None:
    kept = tokenize_all([talk("a", "Q"), talk("b", "Q", "A")], tokenizer, 100)
    assert [example.id for example in kept] == ["b"]


def test_a_template_that_rewrites_the_past_is_refused(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = (
        "{{ messages | length }}{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    with pytest.raises(TrainingError, match="changes earlier messages"):
        tokenize_conversation(THREE, tokenizer, 512)
