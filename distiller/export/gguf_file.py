"""A folder of weights and tokenizer → one GGUF file, which llama.cpp, Ollama and LM Studio run.

Everything that a runtime needs lies in the file: the weights, quantised in blocks of 32; the tokenizer,
trimmed or not; its chat template and special tokens.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distiller.errors import ExportError, ModelError
from distiller.export.gguf_architectures import OUTSIDE, Architecture, add_shape, architecture_of, rope_factors
from distiller.export.gguf_tokenizer import add_tokenizer, read_json

if TYPE_CHECKING:
    import gguf
    import numpy as np

#: quant → the type of matrices in GGUF; bits a weight, the scales of its blocks counted: 16, 8.5, 4.5.
QUANTS = {"f16": "F16", "q8_0": "Q8_0", "q4_0": "Q4_0"}
#: Weights that share a scale: neighbours in a row.
BLOCK = 32
#: In a trained model's config.json: what its weights were rounded to, and are served and exported with.
ROUNDED_TO = "rounded_to"


@dataclass(frozen=True)
class Precision:
    """The quant of the matrices, and that of the token embeddings and the output head, which cost most when rounded."""

    matrices: str
    embedding: str

    @classmethod
    def of(cls, quant: str, *, trained_for: str | None = None) -> Precision:
        """Four bits are kept from the embeddings unless the model was trained with them rounded so."""
        if quant not in QUANTS:
            raise ExportError(f"--quant {quant}: choose one of {', '.join(QUANTS)}.")
        return cls(quant, "q8_0" if quant == "q4_0" and trained_for != quant else quant)


def rounded_to(folder: Path) -> str | None:
    """The quant that the weights in `folder` were trained with, if any: `hyperparameters.quantization` of their job."""
    return read_json(folder / "config.json").get(ROUNDED_TO)


def write_gguf(
    folder: Path, target: Path, quant: str | Precision, *, name: str = "", licence: str = ""
) -> dict[str, int]:
    """Writes the model in `folder` to `target`, whole or not at all. Gives the bytes by group of tensors.

    `quant` alone rounds every matrix so, the embeddings too.

    Raises ExportError for an architecture or a tokenizer that cannot be written, ModelError for a folder without a model.
    """
    import gguf

    precision = Precision.of(quant, trained_for=quant) if isinstance(quant, str) else quant
    config = _config(folder)
    architecture = architecture_of(config)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(partial, architecture.name)
    try:
        writer.add_name(name or folder.name)
        if licence:
            writer.add_license(licence)
        writer.add_file_type(getattr(gguf.LlamaFileType, f"MOSTLY_{QUANTS[precision.matrices]}"))
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        add_shape(writer, config, architecture)
        add_tokenizer(writer, folder, config["vocab_size"])
        sizes: dict[str, int] = {}
        for tensor, values in _tensors(folder, config, architecture):
            group = _group(tensor)
            kind = _type_of(values, precision.embedding if group == "embedding" else precision.matrices)
            packed = gguf.quants.quantize(values, kind)
            writer.add_tensor(tensor, packed, raw_dtype=kind)
            sizes[group] = sizes.get(group, 0) + packed.nbytes
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    except BaseException:
        writer.close()
        partial.unlink(missing_ok=True)
        raise
    writer.close()
    partial.replace(target)
    return sizes


def _config(folder: Path) -> dict[str, Any]:
    """config.json with the defaults of transformers, which it leaves out, and in the form of its newest version."""
    from transformers import AutoConfig

    named = read_json(folder / "config.json").get("architectures")
    try:
        return AutoConfig.from_pretrained(folder).to_dict() | {"architectures": named}
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"{folder / 'config.json'}: transformers cannot read it: {str(error).splitlines()[0]}"
        ) from None


def _tensors(folder: Path, config: dict[str, Any], architecture: Architecture) -> Iterator[tuple[str, np.ndarray]]:
    """(GGUF name, float32 values) of every tensor. Raises ModelError for one that has no place in the file."""
    from safetensors import safe_open

    names = architecture.names
    yield from rope_factors(config).items()
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as weights:
            for key in weights.keys():  # noqa: SIM118  (no mapping: it has only this method)
                if key == "lm_head.weight" and config.get("tie_word_embeddings"):
                    continue
                module, _, kind = key.rpartition(".")
                values = weights.get_tensor(key).float().numpy()
                if "norm" in module:
                    values = values + architecture.norm_offset
                if module in OUTSIDE:
                    yield f"{OUTSIDE[module]}.{kind}", values
                    continue
                layer, _, rest = module.removeprefix("model.layers.").partition(".")
                if rest not in names:
                    raise ExportError(f"{folder}: the tensor {key} has no place in a GGUF file of this architecture.")
                if architecture.interleaved_rope and rest in {"self_attn.q_proj", "self_attn.k_proj"}:
                    heads = config["num_attention_heads"]
                    if rest == "self_attn.k_proj":
                        heads = config.get("num_key_value_heads") or heads
                    values = _interleaved(values, heads)
                yield f"blk.{layer}.{names[rest]}.{kind}", values


def _interleaved(values: np.ndarray, heads: int) -> np.ndarray:
    """(heads · d, …) with the two halves of each head's d rows dealt out in turn: 0, d/2, 1, d/2 + 1, …"""
    shape = values.shape
    return values.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def _type_of(values: np.ndarray, quant: str) -> gguf.GGMLQuantizationType:
    """Vectors stay whole: they are few, and everything passes through them. Rows that no block fits stay in f16."""
    import gguf

    if values.ndim == 1:
        return gguf.GGMLQuantizationType.F32
    wanted = QUANTS[quant] if values.shape[-1] % BLOCK == 0 else "F16"
    return gguf.GGMLQuantizationType[wanted]


def _group(tensor: str) -> str:
    if "norm" in tensor:
        return "norms"
    if tensor.startswith("rope_"):
        return "positions"
    if tensor.startswith(("token_embd", "output")):
        return "embedding"
    return "attention" if ".attn_" in tensor else "feed_forward"
