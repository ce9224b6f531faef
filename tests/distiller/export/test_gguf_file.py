"""A GGUF file says in llama.cpp what the folder says in transformers."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from distiller.chat import ChatRequest, OpenOptions, Sampling, open_model
from distiller.chat.gguf_local import GGUFModel
from distiller.errors import ExportError
from distiller.export.gguf_file import QUANTS, write_gguf
from distiller.schema import Completion
from distiller.student import build_student
from tests.tiny import QUERIES, user

TEXTS = [
    *QUERIES,
    "order FH1234567 for $12.50 on 2024-05-06",
    "naïve café 😀 日本語",
    "  two  spaces\n\n\ttabs",
    "it's we'll I'M don't",
    "<|im_start|>user\nhi<|im_end|>\n",
    " ",
]


def answers(name: str, top: int) -> list[Completion]:
    model = open_model(name, OpenOptions(precision="float32"))
    requests = [ChatRequest(messages=user(q), sampling=Sampling(max_tokens=1), top_logprobs=top) for q in QUERIES]
    return asyncio.run(model.complete(requests))


@pytest.fixture(scope="module")
def trimmed(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("students") / "trimmed"
    build_student(str(tiny_model), QUERIES, folder, [0, 3], 900)
    return folder


@pytest.mark.parametrize("which", ["tiny_model", "trimmed"])
def test_llama_cpp_gives_the_distributions_of_transformers(
    which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Heads, rotary positions, norms, tied embeddings, tokenizer and template: one of them wrong, and these differ."""
    folder: Path = request.getfixturevalue(which)
    write_gguf(folder, tmp_path / "m.gguf", "f16")
    for theirs, ours in zip(answers(f"hf:{folder}", 5), answers(f"gguf:{tmp_path / 'm.gguf'}", 5), strict=True):
        assert theirs.prompt_tokens == ours.prompt_tokens
        assert theirs.top_logprobs is not None
        assert ours.top_logprobs is not None
        for (_, expected), (_, found) in zip(theirs.top_logprobs[0], ours.top_logprobs[0], strict=True):
            assert expected == pytest.approx(found, abs=0.02)
        # The likeliest one by name; halves of a character and special tokens are shown in two ways.
        token, other = theirs.top_logprobs[0][0][0], ours.top_logprobs[0][0][0]
        assert token == other or not token.isalpha()


@pytest.mark.parametrize("which", ["tiny_model", "trimmed"])
def test_both_split_every_text_alike(which: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    import httpx
    from transformers import AutoTokenizer

    folder: Path = request.getfixturevalue(which)
    write_gguf(folder, tmp_path / "m.gguf", "q8_0")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = GGUFModel("gguf:m", tmp_path / "m.gguf")
    with httpx.Client(base_url=model.address, trust_env=False) as client:
        for text in TEXTS:
            asked = {"content": text, "add_special": False, "parse_special": True}
            theirs = client.post("/tokenize", json=asked).json()["tokens"]
            assert theirs == tokenizer(text, add_special_tokens=False).input_ids, text


@pytest.mark.parametrize("quant", sorted(QUANTS))
def test_the_weights_read_back_are_those_written(quant: str, tiny_model: Path, tmp_path: Path) -> None:
    """Down to the rounding of the blocks: half a step of 1/127 or 1/8 of a block's largest value."""
    import gguf
    import numpy as np
    from safetensors.numpy import load_file

    sizes = write_gguf(tiny_model, tmp_path / "m.gguf", quant)
    weights = {key: value.astype(np.float32) for key, value in load_file(tiny_model / "model.safetensors").items()}
    read = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    assert sum(sizes.values()) == sum(tensor.n_bytes for tensor in read.values())
    step = {"f16": 2**-11, "q8_0": 0.5 / 127 + 2**-11, "q4_0": 1 / 8}[quant]
    for theirs, ours in (("ffn_down", "mlp.down_proj"), ("ffn_norm", "post_attention_layernorm")):
        tensor, expected = read[f"blk.1.{theirs}.weight"], weights[f"model.layers.1.{ours}.weight"]
        found = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(expected.shape)
        allowed = step * np.abs(expected).max() if expected.ndim == 2 else 0
        assert np.abs(found - expected).max() <= allowed
    assert {t.tensor_type.name for n, t in read.items() if "norm" in n} == {"F32"}
    assert read["blk.0.attn_q.weight"].tensor_type.name == QUANTS[quant]


def changed(folder: Path, target: Path, file: str, **values: Any) -> Path:
    shutil.copytree(folder, target)
    path = target / file
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return target


def test_what_has_no_place_in_the_format_is_refused_by_name(tiny_model: Path, tmp_path: Path) -> None:
    target = tmp_path / "m.gguf"
    with pytest.raises(ExportError, match="q5_0: choose one of f16, q8_0, q4_0"):
        write_gguf(tiny_model, target, "q5_0")
    other = changed(tiny_model, tmp_path / "a", "config.json", architectures=["MambaForCausalLM"])
    with pytest.raises(ExportError, match="MambaForCausalLM cannot be written as GGUF; LlamaForCausalLM"):
        write_gguf(other, target, "f16")
    other = changed(
        tiny_model,
        tmp_path / "b",
        "config.json",
        rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0},
    )
    with pytest.raises(ExportError, match="'yarn'"):
        write_gguf(other, target, "f16")
    other = changed(tiny_model, tmp_path / "c", "tokenizer.json", pre_tokenizer={"type": "Metaspace"})
    with pytest.raises(ExportError, match="BPE, cut by Metaspace"):
        write_gguf(other, target, "f16")
    assert not list(tmp_path.glob("*.gguf")) + list(tmp_path.glob(".*partial"))
