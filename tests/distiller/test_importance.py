"""Layers are kept by what is missed without them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from distiller.importance import important_layers
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
