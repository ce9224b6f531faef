"""The live teacher's distributions, matched to the student's target positions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from distiller.errors import TrainingError
from distiller.schema import Conversation
from distiller.student import build_student, kept_tokens
from distiller.training import losses
from distiller.training.signals import LiveTeacher
from distiller.training.tokenize import Example, tokenize_conversation
from tests.tiny import REPLIES, all_messages, make_tiny_model, talk, talks, with_system

SYSTEM = "You work for Fernhill."


def student_logits(folder: Path, example: Example) -> tuple[torch.Tensor, torch.Tensor]:
    """(target tokens, vocabulary) logits of the model in `folder`, and the labels there."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    labels = torch.tensor(example.labels)[1:]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([example.ids])).logits[0, :-1]
    return logits[labels != -100], labels[labels != -100]


def example_of(folder: Path, conversation: Conversation) -> Example:
    return tokenize_conversation(with_system(conversation, SYSTEM), AutoTokenizer.from_pretrained(folder), 1024)


def test_the_same_weights_under_the_same_prompt_agree(tiny_model: Path) -> None:
    conversation = with_system(talks(1, turns=3)[0], SYSTEM)
    example = example_of(tiny_model, conversation)
    teacher = LiveTeacher(str(tiny_model), AutoTokenizer.from_pretrained(tiny_model), None, "float32")
    signal = teacher.log_probs(conversation, example)
    logits, labels = student_logits(tiny_model, example)
    assert signal.shape == logits.shape
    per_token = float(losses.divergence_loss(losses.forward_kl, logits, signal, labels)) / len(labels)
    assert abs(per_token) < 1e-4
    # and a shift by one position would have been seen
    shifted = float(losses.divergence_loss(losses.forward_kl, logits[1:], signal[:-1], labels[1:])) / len(labels)
    assert shifted > 0.1


def test_a_dropped_turn_has_no_signal(tiny_model: Path) -> None:
    conversation = with_system(talks(1, turns=3)[0], SYSTEM)
    conversation.metadata["keep"] = [True, False, True]
    example = example_of(tiny_model, conversation)
    teacher = LiveTeacher(str(tiny_model), AutoTokenizer.from_pretrained(tiny_model), None, "float32")
    logits, labels = student_logits(tiny_model, example)
    signal = teacher.log_probs(conversation, example)
    assert float(losses.divergence_loss(losses.forward_kl, logits, signal, labels)) / len(labels) < 1e-4


def test_the_teacher_reads_its_own_prompt(tiny_model: Path) -> None:
    plain = talks(1, turns=2)[0]
    example = example_of(tiny_model, plain)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    told = with_system(plain, SYSTEM + "\n\nPolicy:\nReturns within 30 days.")
    signals = [
        LiveTeacher(str(tiny_model), tokenizer, None, "float32").log_probs(conversation, example)
        for conversation in (with_system(plain, SYSTEM), told)
    ]
    assert signals[0].shape == signals[1].shape
    assert not torch.allclose(signals[0], signals[1], atol=1e-2)


def test_over_a_cut_vocabulary_the_distribution_is_the_renormalised_one(tiny_model: Path, tmp_path: Path) -> None:
    conversation = with_system(talks(1, turns=2)[0], SYSTEM)
    folder = tmp_path / "student"
    build_student(str(tiny_model), [SYSTEM, *all_messages([conversation])], folder, None, 900)
    kept = kept_tokens(folder)
    assert kept is not None
    example = example_of(folder, conversation)
    teacher = LiveTeacher(str(tiny_model), AutoTokenizer.from_pretrained(folder), kept, "float32")
    signal = teacher.log_probs(conversation, example).float()
    logits, labels = student_logits(tiny_model, example_of(tiny_model, conversation))
    assert torch.allclose(signal, logits[:, kept].log_softmax(-1), atol=2e-2)
    assert torch.allclose(signal.exp().sum(-1), torch.ones(len(labels)), atol=1e-2)


def test_the_values_do_not_depend_on_when_they_are_asked(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    data = [with_system(c, SYSTEM) for c in talks(3, turns=2)]
    examples = [example_of(tiny_model, c) for c in data]
    first = LiveTeacher(str(tiny_model), tokenizer, None, "float32")
    second = LiveTeacher(str(tiny_model), tokenizer, None, "float32")
    forwards = [first.log_probs(c, e) for c, e in zip(data, examples, strict=True)]
    again = [first.log_probs(c, e) for c, e in zip(data, examples, strict=True)]
    backwards = [second.log_probs(c, e) for c, e in reversed(list(zip(data, examples, strict=True)))][::-1]
    for a, b, c in zip(forwards, again, backwards, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


def test_another_vocabulary_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "student"
    build_student(str(tiny_model), REPLIES, folder, None, 900)
    with pytest.raises(TrainingError, match=r"different vocabularies .*loss: sequence"):
        LiveTeacher(str(tiny_model), AutoTokenizer.from_pretrained(folder), None, "float32")
    kept = kept_tokens(folder)
    assert kept is not None
    kept[5], kept[6] = kept[6], kept[5]
    with pytest.raises(TrainingError, match="different vocabularies"):
        LiveTeacher(str(tiny_model), AutoTokenizer.from_pretrained(folder), kept, "float32")


def test_replies_split_in_another_way_are_refused(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    teacher = LiveTeacher(str(tiny_model), tokenizer, None, "float32")
    conversation = with_system(talk("c", "Q", "Hello there"), SYSTEM)
    example = example_of(tiny_model, conversation)
    other = with_system(talk("c", "Q", "Hello these"), SYSTEM)
    with pytest.raises(TrainingError, match="split the reply differently"):
        teacher.log_probs(other, example)


def test_a_vocabulary_padded_beyond_the_tokenizer_is_cut(bundled_folder: Path, tmp_path: Path) -> None:
    """152064 rows for 151936 tokens: what the student gives has to fit what the teacher says."""
    folder = make_tiny_model(bundled_folder, tmp_path / "padded", extra_vocabulary=64)
    conversation = with_system(talks(1)[0], SYSTEM)
    example = example_of(folder, conversation)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    teacher = LiveTeacher(str(folder), tokenizer, None, "float32")
    signal = teacher.log_probs(conversation, example)
    assert signal.shape == (example.target_tokens, len(tokenizer))
    assert torch.allclose(signal.float().exp().sum(-1), torch.ones(example.target_tokens), atol=1e-2)
