"""What the comparison of a file with its original sees, and what it does not complain of."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

from distiller.chat.base import ChatRequest, Sampling
from distiller.export.gguf_file import Precision, write_gguf
from distiller.export.verify import coarse_kl, first_divergence, largest_difference, verify
from tests.tiny import QUERIES, make_tiny_model, user

REQUESTS = [ChatRequest(messages=user(q), sampling=Sampling(max_tokens=4)) for q in QUERIES[:4]]


def logs(**probabilities: float) -> dict[int, float]:
    return {ord(name): math.log(p) for name, p in probabilities.items()}


def test_kl_by_hand() -> None:
    p, q = logs(a=0.5, b=0.25), logs(a=0.25, b=0.25, c=0.4)
    # c is not named by p: it is part of the rest, 0.25 against 0.5.
    assert coarse_kl(p, q) == pytest.approx(0.5 * math.log(2) + 0.25 * math.log(1 / 2))
    assert coarse_kl(p, p) == 0
    assert coarse_kl(logs(a=1.0), logs(b=1.0)) > 10  # nothing in common


def test_largest_difference_by_hand() -> None:
    p, q = logs(a=0.9, b=0.09, c=0.001), logs(a=0.45, b=0.1, d=0.05)
    assert largest_difference(p, q) == pytest.approx(math.log(2))  # c is too rare to count
    assert largest_difference(logs(a=0.9, c=0.1), q) == pytest.approx(math.log(2))  # log 0.1 − log 0.05, at least


def test_first_divergence() -> None:
    assert first_divergence([1, 2, 3], [1, 2, 3]) is None
    assert first_divergence([1, 2, 3], [1, 9, 3]) == 1
    assert first_divergence([1, 2], [1, 2, 3]) == 2
    assert first_divergence([], [5]) == 0


@pytest.mark.parametrize("quant", ["q8_0", "q4_0"])
def test_rounding_that_was_asked_for_is_faithful(quant: str, tiny_model: Path, tmp_path: Path) -> None:
    precision = Precision.of(quant)
    write_gguf(tiny_model, tmp_path / "m.gguf", precision)
    found = verify(tmp_path / "m.gguf", tiny_model, precision, REQUESTS)
    assert found["faithful"]
    assert found["prompts"] == len(REQUESTS)
    same, original = found["against_the_same_rounded_weights"], found["against_the_original"]
    # Four bits cost far more than what is left between the two programs.
    assert same["kl_mean"] < original["kl_mean"] * (0.2 if quant == "q4_0" else 1.5)


def test_other_weights_are_not_faithful(bundled_folder: Path, tiny_model: Path, tmp_path: Path) -> None:
    other = make_tiny_model(bundled_folder, tmp_path / "other", seed=1)
    write_gguf(other, tmp_path / "m.gguf", "f16")
    found = verify(tmp_path / "m.gguf", tiny_model, Precision("f16", "f16"), REQUESTS)
    assert not found["faithful"]
    assert "the likeliest next token is the same in" in found["reasons"][-1]
    assert found["tokenizer"]["different"] == []


def test_missing_merges_are_not_faithful(tiny_model: Path, tmp_path: Path) -> None:
    """The weights are right, and texts are not read as they were."""
    other = tmp_path / "other"
    shutil.copytree(tiny_model, other)
    path = other / "tokenizer.json"
    tokenizer = json.loads(path.read_text("utf-8"))
    del tokenizer["model"]["merges"][1000:]
    path.write_text(json.dumps(tokenizer), "utf-8")
    write_gguf(other, tmp_path / "m.gguf", "f16")
    found = verify(tmp_path / "m.gguf", tiny_model, Precision("f16", "f16"), REQUESTS)
    assert not found["faithful"]
    assert "texts are cut into other tokens" in found["reasons"][0]
    assert any("parcel" in text for text in found["tokenizer"]["different"])
