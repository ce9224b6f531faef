"""Layers are kept by what is missed without them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from distiller.errors import TrainingError
from distiller.export.gguf_file import write_gguf
from distiller.importance import important_layers, important_neurons, keep_neurons
from distiller.student import build_student
from distiller.training.tokenize import tokenize_all
from tests.tiny import QUERIES, make_tiny_model, talk


@pytest.fixture(scope="module")
def loaded(bundled_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, list[Any]]:
    """Six layers that were taught to repeat what was asked; the second and the fifth do nothing."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = make_tiny_model(bundled_folder, tmp_path_factory.mktemp("m") / "tiny", layers=6)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    examples = tokenize_all([talk(q, q, q) for q in QUERIES], AutoTokenizer.from_pretrained(folder), 512)
    idle = [p for k in (1, 4) for p in (model.model.layers[k].self_attn.o_proj, model.model.layers[k].mlp.down_proj)]
    for module in idle:
        torch.nn.init.zeros_(module.weight)
        module.weight.requires_grad = False
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3, weight_decay=0.0)
    for _ in range(15):
        for example in examples:
            ids, labels = torch.tensor([example.ids]), torch.tensor([example.labels])
            model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval(), examples


def test_idle_layers_go_first(loaded: tuple[Any, list[Any]]) -> None:
    model, examples = loaded
    before = list(model.model.layers)
    said: list[str] = []
    assert important_layers(model, examples, 4, said.append) == [0, 2, 3, 5]
    assert len(said) == 2
    assert list(model.model.layers) == before
    assert model.config.num_hidden_layers == 6


def test_the_first_layer_stays_and_the_number_is_kept(loaded: tuple[Any, list[Any]]) -> None:
    model, examples = loaded
    for wanted in (1, 2, 6):
        layers = important_layers(model, examples, wanted)
        assert len(layers) == wanted
        assert layers[0] == 0
        assert layers == sorted(layers)


def test_neurons_that_do_nothing_go_first_and_the_rest_says_the_same(loaded: tuple[Any, list[Any]]) -> None:
    model = copy.deepcopy(loaded[0])
    examples = loaded[1]
    have = model.config.intermediate_size
    idle: list[list[int]] = []
    for layer in model.model.layers:
        chosen = torch.randperm(have, generator=torch.Generator().manual_seed(len(idle)))[: have // 2]
        layer.mlp.down_proj.weight.data[:, chosen[::2]] = 0  # what it says is not heard
        layer.mlp.up_proj.weight.data[chosen[1::2]] = 0  # it says nothing
        idle.append(chosen.tolist())
    ids = torch.tensor([examples[0].ids])
    before = model(input_ids=ids).logits
    kept = important_neurons(model, examples, have // 2)
    for k, neurons in enumerate(kept):
        if k not in (1, 4):  # of those two, none is heard
            assert not set(neurons) & set(idle[k])
        assert neurons == sorted(set(neurons))
    keep_neurons(model, kept)
    assert model.model.layers[0].mlp.up_proj.weight.shape[0] == model.config.intermediate_size == have // 2
    assert torch.allclose(model(input_ids=ids).logits, before, atol=1e-4)


def test_more_neurons_than_there_are_is_said(loaded: tuple[Any, list[Any]]) -> None:
    model, examples = loaded
    with pytest.raises(TrainingError, match="intermediate_size 4096: the model's layers have"):
        important_neurons(model, examples, 4096)


def test_a_student_of_fewer_neurons_loads_and_is_exported(
    bundled_folder: Path, tmp_path: Path, loaded: tuple[Any, list[Any]]
) -> None:
    from transformers import AutoModelForCausalLM

    source = make_tiny_model(bundled_folder, tmp_path / "tiny", layers=3)
    facts = build_student(
        str(source), QUERIES, tmp_path / "s", [0, 2], 1500, intermediate_size=64, examples=lambda _: loaded[1]
    )
    assert facts["layers"] == [0, 2]
    assert facts["intermediate_size"] == 64
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "s")
    assert model.model.layers[1].mlp.down_proj.weight.shape[1] == model.config.intermediate_size == 64
    assert model.num_parameters() == facts["parameters"]
    write_gguf(tmp_path / "s", tmp_path / "s.gguf", "q4_0")
