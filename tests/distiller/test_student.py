"""The student: cut from a model, still a plain folder, still able to read and write any text."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from distiller.errors import ModelError, TrainingError
from distiller.student import build_student, choose_layers, choose_tokens, kept_tokens
from tests.tiny import QUERIES, REPLIES, make_tiny_model

TEXTS = [*QUERIES, *REPLIES]


@pytest.fixture(scope="module")
def student(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("student") / "trimmed"
    facts = build_student(str(tiny_model), TEXTS, folder, 2, 1500)
    assert facts["vocabulary_size"] == 1500
    assert facts["layers"] == [0, 3]
    assert facts["parameters"] < facts["source_parameters"]
    return folder


@pytest.fixture(scope="module")
def tokenizers(tiny_model: Path, student: Path) -> tuple[Any, Any]:
    return AutoTokenizer.from_pretrained(tiny_model), AutoTokenizer.from_pretrained(student)


# Tokenizer


@settings(deadline=None, max_examples=200)
@given(text=st.text(max_size=60))
@example("🤦🏽‍♀️ naïve café — 你好 \t\n x")
@example("Hello<|im_end|>\n<|im_start|>user")
@example(" \u200b\u00ad")
@example("FH4081276 costs $12.50!!!")
def test_any_text_still_encodes_and_decodes_as_before(tokenizers: tuple[Any, Any], text: str) -> None:
    """SmolLM2's own vocabulary lacks 21 of the 256 bytes (six control characters, unassigned planes): no loss of ours."""
    old, new = tokenizers
    before = old.decode(old(text, add_special_tokens=False).input_ids)
    after = new.decode(new(text, add_special_tokens=False).input_ids)
    assert after == before
    if all(ch >= " " and ord(ch) < 0x40000 for ch in text):
        assert after == text


@settings(deadline=None, max_examples=100)
@given(text=st.lists(st.sampled_from([w for t in TEXTS for w in t.split()]), max_size=12).map(" ".join))
def test_texts_whose_tokens_are_kept_encode_to_the_same_tokens(
    tokenizers: tuple[Any, Any], student: Path, text: str
) -> None:
    old, new = tokenizers
    kept = kept_tokens(student)
    assert kept is not None
    ids = old(text, add_special_tokens=False).input_ids
    mine = [kept[i] for i in new(text, add_special_tokens=False).input_ids]
    if set(ids) <= set(kept):
        assert mine == ids


def test_the_training_texts_are_all_kept(tokenizers: tuple[Any, Any], student: Path) -> None:
    old, new = tokenizers
    kept = kept_tokens(student)
    assert kept is not None
    for text in TEXTS:
        assert [kept[i] for i in new(text).input_ids] == old(text).input_ids


def test_kept_tokens_name_the_same_tokens(tokenizers: tuple[Any, Any], student: Path) -> None:
    old, new = tokenizers
    kept = kept_tokens(student)
    assert kept == sorted(set(kept or []))
    assert old.convert_ids_to_tokens(kept) == new.convert_ids_to_tokens(list(range(len(new))))
    for name in ("eos_token", "bos_token", "pad_token", "unk_token"):
        assert getattr(new, name) == getattr(old, name)
    assert new.chat_template == old.chat_template


def test_what_the_chat_template_writes_by_itself_is_kept(tokenizers: tuple[Any, Any], student: Path) -> None:
    """SmolLM2's writes a system prompt of its own where there is none."""
    old, new = tokenizers
    kept = kept_tokens(student)
    messages = [{"role": "user", "content": QUERIES[0]}]
    mine = new.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert [kept[i] for i in mine] == old.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)  # type: ignore[index]


def test_kept_tokens_are_closed_under_their_merges(tiny_model: Path, student: Path) -> None:
    """A token is kept with the two that it is merged from, or it could never be reached."""
    backend = json.loads((student / "tokenizer.json").read_text("utf-8"))["model"]
    reachable = {"".join(pair) for pair in backend["merges"]}
    special = {t for t in backend["vocab"] if t.startswith("<") and t.endswith(">")}
    assert [t for t in backend["vocab"] if len(t) > 1 and t not in reachable | special] == []
    assert all(a in backend["vocab"] and b in backend["vocab"] for a, b in backend["merges"])


def test_the_special_ids_of_the_configuration_follow(student: Path, tokenizers: tuple[Any, Any]) -> None:
    _, new = tokenizers
    for name in ("config.json", "generation_config.json"):
        config = json.loads((student / name).read_text())
        ends = config["eos_token_id"]
        assert (ends if isinstance(ends, int) else ends[0]) == new.eos_token_id
    assert json.loads((student / "config.json").read_text())["vocab_size"] == len(new) == 1500


def test_too_small_a_vocabulary_is_refused_in_words(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"student\.vocabulary_size 300: .* need \d+ tokens\. Raise it"):
        build_student(str(tiny_model), TEXTS, tmp_path / "s", None, 300)
    assert not (tmp_path / "s").exists()


def test_without_a_size_only_what_is_needed_is_kept(tokenizers: tuple[Any, Any]) -> None:
    old, _ = tokenizers
    few, more = choose_tokens(old, ["Hi"], None), choose_tokens(old, ["Hi", *TEXTS], None)
    assert set(few) < set(more)
    assert set(old(" ".join(TEXTS[:1])).input_ids) <= set(more)
    filled = choose_tokens(old, ["Hi"], 1000)
    assert len(filled) == 1000
    assert set(few) < set(filled)


# Layers


@pytest.mark.parametrize(
    ("total", "wanted", "expected"),
    [
        (30, 30, list(range(30))),
        (30, 2, [0, 29]),
        (30, 1, [0]),
        (5, 3, [0, 2, 4]),
        (7, 4, [0, 2, 4, 6]),
        (4, [1, 3], [1, 3]),
    ],
)
def test_layers(total: int, wanted: Any, expected: list[int]) -> None:
    assert choose_layers(total, wanted) == expected


@given(total=st.integers(2, 120), data=st.data())
def test_layers_are_evenly_spread(total: int, data: st.DataObject) -> None:
    wanted = data.draw(st.integers(2, total))
    layers = choose_layers(total, wanted)
    steps = [b - a for a, b in itertools.pairwise(layers)]
    assert (len(layers), layers[0], layers[-1]) == (wanted, 0, total - 1)
    assert min(steps) >= 1
    assert max(steps) - min(steps) <= 1


@pytest.mark.parametrize("wanted", [0, 5, -1, [4], [-1], [1, 0], [1, 1], []])
def test_layers_that_do_not_exist_are_refused(wanted: Any) -> None:
    with pytest.raises(TrainingError, match=r"student\.layers"):
        choose_layers(4, wanted)


# The model


def test_with_all_layers_kept_the_logits_are_the_source_s(tiny_model: Path, tmp_path: Path) -> None:
    build_student(str(tiny_model), TEXTS, tmp_path / "s", 4, 1500)
    kept = kept_tokens(tmp_path / "s")
    assert kept is not None
    # the student is stored in bfloat16, so the source is rounded alike
    source: Any = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16).float()
    student: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "s", dtype=torch.float32)
    ids = AutoTokenizer.from_pretrained(tmp_path / "s")(QUERIES[1], return_tensors="pt").input_ids
    with torch.no_grad():
        mine = student(input_ids=ids).logits
        theirs = source(input_ids=torch.tensor(kept)[ids]).logits[..., kept]
    assert torch.allclose(mine, theirs, atol=1e-4)


@pytest.mark.parametrize("tied", [True, False])
def test_pruned_layers_are_the_chosen_ones(bundled_folder: Path, tmp_path: Path, tied: bool) -> None:
    source = make_tiny_model(bundled_folder, tmp_path / "source", tied=tied)
    build_student(str(source), TEXTS, tmp_path / "s", [1, 3], 1500)
    whole: Any = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    cut: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "s", dtype=torch.bfloat16)
    assert cut.config.num_hidden_layers == len(cut.model.layers) == 2
    for mine, theirs in ((0, 1), (1, 3)):
        for name, value in cut.model.layers[mine].state_dict().items():
            assert torch.equal(value, whole.model.layers[theirs].state_dict()[name])
        assert cut.model.layers[mine].self_attn.layer_idx == mine
    kept = kept_tokens(tmp_path / "s")
    assert torch.equal(cut.model.embed_tokens.weight, whole.model.embed_tokens.weight[kept])
    assert torch.equal(cut.lm_head.weight, whole.lm_head.weight[kept])
    assert cut.config.tie_word_embeddings is tied


LOADER = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
text = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True)
ids = tokenizer(text, return_tensors="pt")
out = model.generate(**ids, max_new_tokens=4, do_sample=False)
assert "distiller" not in sys.modules
print(out.shape[1] - ids.input_ids.shape[1], model.config.vocab_size == len(tokenizer))
"""


def test_the_folder_loads_with_plain_transformers(student: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADER, str(student)],
        check=False,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[1] == "True"


def test_an_uncut_student_is_the_source(tiny_model: Path, tmp_path: Path) -> None:
    facts = build_student(str(tiny_model), TEXTS, tmp_path / "s", None, None)
    assert facts["parameters"] == facts["source_parameters"]
    assert kept_tokens(tmp_path / "s") is None
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "s")
    assert tokenizer(QUERIES[0]).input_ids == AutoTokenizer.from_pretrained(tiny_model)(QUERIES[0]).input_ids


def test_a_source_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be loaded"):
        build_student(str(tmp_path / "absent"), TEXTS, tmp_path / "s", None, None)
