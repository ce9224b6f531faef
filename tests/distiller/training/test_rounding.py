"""Training rounds weights as llama.cpp's formats do, and the optimizer moves the whole ones."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch

from distiller.training.rounding import ROUNDINGS, rounded


@pytest.mark.parametrize("quant", sorted(ROUNDINGS))
def test_rounded_as_the_gguf_library_packs_them(quant: str) -> None:
    """Random rows, one of zeros, one with a single value, ties of the largest value."""
    weights = torch.randn(64, 96, generator=torch.Generator().manual_seed(0))
    weights[1] = 0
    weights[2, 5:] = 0
    weights[3, :32] = torch.tensor([1.0, -1.0]).repeat(16)
    kind = gguf.GGMLQuantizationType[quant.upper()]
    packed = gguf.quants.quantize(weights.numpy(), kind)
    expected = gguf.quants.dequantize(packed, kind)
    assert np.array_equal(ROUNDINGS[quant](weights).numpy(), expected)


def test_by_hand() -> None:
    """The largest in size, −4, is −8 steps of 0.5; 0.74 is 1 step, 0.76 two."""
    block = torch.zeros(1, 32)
    block[0, :5] = torch.tensor([-4.0, 0.74, 0.76, 3.9, 3.4])
    assert ROUNDINGS["q4_0"](block)[0, :6].tolist() == [-4.0, 0.5, 1.0, 3.5, 3.5, 0.0]


def test_gradients_go_to_the_whole_weights() -> None:
    model = torch.nn.Linear(64, 8)
    before = model.weight.detach().clone()
    x = torch.randn(5, 64)
    with rounded(model, "q4_0"):
        y = model(x)
        y.sum().backward()
    assert torch.allclose(y, x @ ROUNDINGS["q4_0"](before).T + model.bias)
    assert torch.equal(model.weight, before)
    assert model.weight.grad is not None
    assert torch.allclose(model.weight.grad, x.sum(0).expand(8, 64), atol=1e-5)
    with rounded(model, None):
        assert torch.equal(model.weight, before)
