"""The training loop: what it learns, and that stopping at any moment changes nothing."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from distiller.errors import TrainingError
from distiller.export.served import served_file
from distiller.job import Hyperparameters
from distiller.progress import Progress, Tracker
from distiller.schema import Conversation
from distiller.student import build_student
from distiller.training import trainer as loop
from distiller.training.losses import DIVERGENCES
from distiller.training.rounding import round_q4_0
from distiller.training.schedule import learning_rate_at, length_grouped_batches
from distiller.training.tokenize import tokenize_all
from distiller.training.trainer import History, TrainingData, forget_checkpoint, train
from tests.tiny import (
    QUERIES,
    REPLIES,
    all_messages,
    contents,
    largest_difference,
    make_tiny_model,
    talks,
    weights_of,
    with_system,
)

SYSTEM = "Be brief."
TRAINING = talks(12)
VALIDATION = talks(3, prefix="v")


@pytest.fixture(scope="module")
def start(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student of two layers and a small vocabulary: a step takes a hundredth of a second."""
    folder = tmp_path_factory.mktemp("trainer") / "baseline"
    texts = [SYSTEM, *all_messages([*TRAINING, *VALIDATION])]
    build_student(str(tiny_model), texts, folder, 2, 1000)
    return folder


def settings(**more: Any) -> Hyperparameters:
    return Hyperparameters(**{"loss": "sequence", "batch_size": 4, "num_epochs": 2, "learning_rate": 2e-3} | more)


def run(
    start: Path,
    folder: Path,
    wanted: Hyperparameters,
    *,
    training: Sequence[Conversation] = TRAINING,
    validation: Sequence[Conversation] = VALIDATION,
    teacher: Path | None = None,
    progress: Progress | None = None,
    seed: int = 0,
) -> History:
    seen = {c.id: with_system(c, SYSTEM) for c in [*training, *validation]}
    data = TrainingData(
        [seen[c.id] for c in training],
        [seen[c.id] for c in validation],
        teacher=str(teacher) if teacher else None,
        teacher_views=seen,
    )
    return train(
        start,
        folder,
        data,
        wanted,
        precision="float32",
        seed=seed,
        progress=progress or Progress(quiet=True),
        label="Training",
    )


class PulledPlug(Exception):
    pass


class Breaking(Progress):
    """Progress that stops the training after so many optimizer steps."""

    def __init__(self, steps: int) -> None:
        super().__init__(quiet=True)
        self.steps = steps

    @contextmanager
    def track(self, label: str, total: int, unit: str) -> Iterator[Tracker]:
        owner = self
        with super().track(label, total, unit) as tracker:
            advance = tracker.advance

            class Cut:
                def advance(self, n: int = 1) -> None:
                    if n and owner.steps == 0:
                        raise PulledPlug
                    owner.steps -= bool(n)
                    advance(n)

            yield Cut()  # type: ignore[misc]


def validation_loss(folder: Path, validation: Sequence[Conversation]) -> float:
    """Mean cross-entropy on the replies, from the saved files alone."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    total, count = 0.0, 0
    for example in tokenize_all([with_system(c, SYSTEM) for c in validation], tokenizer, 1024):
        labels = torch.tensor(example.labels)
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([example.ids])).logits[0]
        total += float(torch.nn.functional.cross_entropy(logits[:-1], labels[1:], reduction="sum"))
        count += example.target_tokens
    return total / count


# Learning


def test_the_loss_goes_down_and_the_best_epoch_is_what_is_saved(start: Path, tmp_path: Path) -> None:
    history = run(start, tmp_path / "student", settings(num_epochs=6))
    losses = [entry["loss"] for entry in history.train]
    assert losses[-1] < 0.8 * losses[0]
    assert len(history.validation) == 6
    best = history.validation[history.best_epoch]["loss"]
    assert best == min(entry["loss"] for entry in history.validation)
    assert validation_loss(tmp_path / "student", VALIDATION) == pytest.approx(best, rel=0.02)
    assert best < validation_loss(start, VALIDATION)


def test_early_stopping_keeps_the_best_epoch(start: Path, tmp_path: Path) -> None:
    """Trained towards other replies than those it is validated on, it gets worse and worse."""
    wrong = [
        c.model_copy(update={"messages": [c.messages[0], c.messages[1].model_copy(update={"content": "No no no no"})]})
        for c in TRAINING
    ]
    wanted = settings(num_epochs=30, learning_rate=5e-3, early_stopping_patience=2)
    history = run(start, tmp_path / "student", wanted, training=wrong)
    losses = [entry["loss"] for entry in history.validation]
    assert len(losses) < 30
    assert len(losses) == history.best_epoch + 1 + 2
    assert losses[history.best_epoch] == min(losses) < losses[-1]
    assert validation_loss(tmp_path / "student", VALIDATION) == pytest.approx(min(losses), rel=0.02)


@pytest.mark.parametrize("loss", DIVERGENCES)
def test_the_teacher_s_distribution_is_learned(loss: str, start: Path, tiny_model: Path, tmp_path: Path) -> None:
    wanted = settings(loss=loss, kd_weight=1.0, num_epochs=5)
    history = run(start, tmp_path / "student", wanted, teacher=tiny_model)
    distances = [entry[loss] for entry in history.train]
    assert distances[-1] < distances[0]
    assert all(entry["loss"] == pytest.approx(entry[loss]) for entry in history.train)


def test_the_weight_mixes_the_two_losses(start: Path, tiny_model: Path, tmp_path: Path) -> None:
    wanted = settings(loss="forward_kl", kd_weight=0.25, num_epochs=1)
    history = run(start, tmp_path / "student", wanted, teacher=tiny_model)
    for entry in [*history.train, *history.validation]:
        assert entry["loss"] == pytest.approx(0.75 * entry["ce"] + 0.25 * entry["forward_kl"])


def test_a_teacher_with_a_padded_vocabulary_can_be_learned_from(bundled_folder: Path, tmp_path: Path) -> None:
    """The embedding has more rows than the tokenizer has tokens, in teacher and student alike."""
    padded = make_tiny_model(bundled_folder, tmp_path / "padded", extra_vocabulary=64)
    build_student(str(padded), [], tmp_path / "baseline", 2, None)
    wanted = settings(loss="forward_kl", num_epochs=1)
    history = run(tmp_path / "baseline", tmp_path / "student", wanted, training=TRAINING[:4], teacher=padded)
    assert math.isfinite(history.validation[0]["loss"])


def test_the_saved_student_carries_its_kept_tokens(start: Path, tmp_path: Path) -> None:
    run(start, tmp_path / "student", settings(num_epochs=1))
    assert (tmp_path / "student" / "kept_tokens.json").read_bytes() == (start / "kept_tokens.json").read_bytes()
    saved = weights_of(tmp_path / "student")
    assert saved.keys() == weights_of(start).keys()  # a tied output layer is stored once
    assert {value.dtype for value in saved.values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "student" / "config.json").read_text())["use_cache"] is True
    left_over = {p.name for p in tmp_path.iterdir()} - {"student", ".student.checkpoint", "runs"}
    assert left_over == set()
    forget_checkpoint(tmp_path / "student")
    assert not (tmp_path / ".student.checkpoint").exists()


# What must not change the result


def test_accumulation_gives_the_same_student(start: Path, tmp_path: Path) -> None:
    """Replies of very different lengths: parts normalised by their own counts would show."""
    uneven = [
        c.model_copy(update={"messages": [c.messages[0], c.messages[1].model_copy(update={"content": text})]})
        for c, text in zip(TRAINING, [REPLIES[k] * (1 + 3 * (k % 4 == 0)) for k in range(12)], strict=True)
    ]
    histories = {
        parts: run(
            start,
            tmp_path / f"student{parts}",
            settings(gradient_accumulation_steps=parts, learning_rate=1e-3),
            training=uneven,
        )
        for parts in (1, 4)
    }
    for one, four in zip(histories[1].train, histories[4].train, strict=True):
        assert one["loss"] == pytest.approx(four["loss"], rel=1e-4)
    assert histories[1].tokens == histories[4].tokens
    first, second = weights_of(tmp_path / "student1"), weights_of(tmp_path / "student4")
    before = weights_of(start)
    moved = largest_difference({key: first[key] for key in before}, before)
    assert largest_difference(first, second) < 0.05 * moved
    same = sum(int((first[key] == second[key]).sum()) for key in first) / sum(v.numel() for v in first.values())
    assert same > 0.98


def test_the_same_training_twice_is_the_same_student(start: Path, tmp_path: Path) -> None:
    run(start, tmp_path / "a", settings())
    run(start, tmp_path / "b", settings())
    run(start, tmp_path / "c", settings(), seed=1)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a") != contents(tmp_path / "c")


@pytest.mark.parametrize(
    ("steps", "more"),
    [
        (1, {}),
        (3, {}),
        (4, {}),
        (5, {"gradient_accumulation_steps": 2}),
        (4, {"lora_rank": 4}),
        (4, {"loss": "forward_kl"}),
    ],
    ids=["first-step", "end-of-epoch", "mid-epoch", "accumulated", "lora", "teacher"],
)
def test_a_training_that_was_cut_off_resumes_to_the_same_student(
    start: Path,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    steps: int,
    more: dict[str, Any],
) -> None:
    wanted = settings(num_epochs=3, **more)
    teacher = tiny_model if wanted.loss == "forward_kl" else None
    undisturbed = run(start, tmp_path / "a", wanted, teacher=teacher)
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", -1.0)  # after every step, not once a minute
    with pytest.raises(PulledPlug):
        run(start, tmp_path / "b", wanted, teacher=teacher, progress=Breaking(steps))
    assert not (tmp_path / "b").exists()
    resumed = run(start, tmp_path / "b", wanted, teacher=teacher)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert resumed.validation == undisturbed.validation
    assert resumed.train == undisturbed.train
    assert resumed.tokens == undisturbed.tokens


def test_a_finished_training_asked_again_keeps_its_student(start: Path, tmp_path: Path) -> None:
    history = run(start, tmp_path / "student", settings())
    before = contents(tmp_path / "student")
    again = run(start, tmp_path / "student", settings())
    assert contents(tmp_path / "student") == before
    assert again.validation == history.validation


def test_low_rank_adapters_are_merged(start: Path, tmp_path: Path) -> None:
    history = run(start, tmp_path / "student", settings(lora_rank=4, learning_rate=1e-2, num_epochs=4))
    assert history.train[-1]["loss"] < history.train[0]["loss"]
    before, after = weights_of(start), weights_of(tmp_path / "student")
    assert before.keys() == after.keys()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed
    assert all("proj" in key for key in changed)
    key = next(key for key in changed if "q_proj" in key)
    rank = torch.linalg.matrix_rank((after[key].float() - before[key].float()), atol=0.02)
    assert int(rank) <= 4
    best = history.validation[history.best_epoch]["loss"]
    assert validation_loss(tmp_path / "student", VALIDATION) == pytest.approx(best, rel=0.02)


# What goes wrong


def poisoned(start: Path, folder: Path, key: str, row: int | None) -> Path:
    from safetensors.torch import save_file

    shutil.copytree(start, folder)
    weights = weights_of(start)
    weights[key][slice(None) if row is None else row] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_loss_that_is_not_finite_stops_in_words(start: Path, tmp_path: Path) -> None:
    broken = poisoned(start, tmp_path / "broken", "model.norm.weight", None)
    with pytest.raises(TrainingError, match=r"became nan at step 0 \(epoch 1\).*learning_rate \(now 0.002\)"):
        run(broken, tmp_path / "student", settings())
    assert not (tmp_path / "student").exists()


def test_a_validation_loss_that_is_never_finite_is_no_success(bundled_folder: Path, tmp_path: Path) -> None:
    """Only a token of the validation texts is broken, so that the training itself goes well."""
    untied = make_tiny_model(bundled_folder, tmp_path / "untied", layers=2, tied=False)
    odd = AutoTokenizer.from_pretrained(untied)("zebra", add_special_tokens=False).input_ids[0]
    broken = poisoned(untied, tmp_path / "broken", "model.embed_tokens.weight", odd)
    validation = talks(1, prefix="v")
    message = validation[0].messages[0]
    validation[0].messages[0] = message.model_copy(update={"content": "zebra"})
    with pytest.raises(TrainingError):
        run(broken, tmp_path / "student", settings(num_epochs=1), training=TRAINING[:4], validation=validation)


def test_texts_without_replies_are_refused(start: Path, tmp_path: Path) -> None:
    bare = [c.model_copy(update={"messages": c.messages[:1]}) for c in TRAINING]
    with pytest.raises(TrainingError, match="None of the 12"):
        run(start, tmp_path / "student", settings(), training=bare)


# Schedule and batches


def test_the_rate_warms_up_to_its_peak_and_falls_to_a_tenth() -> None:
    rates = [learning_rate_at(step, 100, 1.0, 0.1) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0) == rates[9]
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert learning_rate_at(100, 100, 1.0, 0.1) == pytest.approx(0.1)
    assert learning_rate_at(0, 1, 1.0, 0.0) == pytest.approx(1.0)


@given(lengths=st.lists(st.integers(1, 500), min_size=1, max_size=200), size=st.integers(1, 16), seed=st.integers(0, 9))
def test_batches_hold_every_example_once(lengths: list[int], size: int, seed: int) -> None:
    batches = length_grouped_batches(lengths, size, seed)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(1 <= len(batch) <= size for batch in batches)
    assert len(batches) == math.ceil(len(lengths) / size)
    assert batches == length_grouped_batches(lengths, size, seed)


def test_batches_are_of_like_length_and_change_with_the_seed() -> None:
    lengths = [k % 64 + 1 for k in range(64)]
    batches = length_grouped_batches(lengths, 8, 0)
    spread = max(max(lengths[i] for i in b) - min(lengths[i] for i in b) for b in batches)
    assert spread < 16
    assert batches != length_grouped_batches(lengths, 8, 1)
    assert len(QUERIES) == len(REPLIES) == 12


def test_a_student_trained_for_four_bits_is_left_in_four_bits(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was trained is what is loaded, exported and served."""
    run(start, tmp_path / "student", settings(quantization="q4_0"))
    weights = weights_of(tmp_path / "student")
    matrices = {name: w for name, w in weights.items() if w.ndim == 2}
    assert len(matrices) > 10
    for name, matrix in matrices.items():
        assert torch.equal(round_q4_0(matrix), matrix), name
    monkeypatch.setenv("DISTILLER_CACHE", str(tmp_path / "cache"))
    file = served_file(tmp_path / "student")
    assert file is not None
    assert file.name.endswith("-q4_0.gguf")
    written = {t.name: t for t in gguf.GGUFReader(file).tensors}["blk.0.ffn_up.weight"]
    assert torch.equal(
        torch.from_numpy(gguf.quants.dequantize(written.data, written.tensor_type)),
        matrices["model.layers.0.mlp.up_proj.weight"],
    )
