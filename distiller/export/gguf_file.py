"""A folder of weights and tokenizer → one GGUF file, which llama.cpp, Ollama and LM Studio run.

Everything that a runtime needs lies in the file: the weights, quantised in blocks of 32; the tokenizer,
trimmed or not; its chat template and special tokens.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distiller.errors import ExportError, ModelError

if TYPE_CHECKING:
    import gguf
    import numpy as np

#: quant → the type of matrices in GGUF; bits a weight, the scales of its blocks counted: 16, 8.5, 4.5.
QUANTS = {"f16": "F16", "q8_0": "Q8_0", "q4_0": "Q4_0"}
BLOCK = 32


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


#: Tensor names of a decoder layer after `model.layers.N.`, as all families here name them → GGUF's after `blk.N.`.
_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


@dataclass(frozen=True)
class Architecture:
    """How llama.cpp knows a family."""

    name: str
    #: Layer tensors that this family names in its own way.
    names: dict[str, str] = field(default_factory=lambda: {"post_attention_layernorm": "ffn_norm"})
    #: llama.cpp turns neighbouring pairs of a head's rows where transformers turns its two halves.
    interleaved_rope: bool = False


ARCHITECTURES = {
    "LlamaForCausalLM": Architecture("llama", interleaved_rope=True),
}

#: The rule that cuts a text before BPE, by its form in tokenizer.json → llama.cpp's name of it.
_BYTE_LEVEL = ("ByteLevel",)
_PRE_TOKENIZERS = {
    ("ByteLevel:regex",): "gpt-2",
    ("Digits:individual", "ByteLevel:regex"): "smollm",
}
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4


def write_gguf(
    folder: Path, target: Path, quant: str | Precision, *, name: str = "", licence: str = ""
) -> dict[str, int]:
    """Writes the model in `folder` to `target`, whole or not at all. Gives the bytes by group of tensors.

    `quant` alone rounds every matrix so, the embeddings too.

    Raises ExportError for an architecture or a tokenizer that cannot be written, ModelError for a folder without a model.
    """
    import gguf

    precision = Precision.of(quant, trained_for=quant) if isinstance(quant, str) else quant
    config = _read_json(folder / "config.json")
    architecture = _architecture(config, folder)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(partial, architecture.name)
    try:
        writer.add_name(name or folder.name)
        if licence:
            writer.add_license(licence)
        writer.add_file_type(getattr(gguf.LlamaFileType, f"MOSTLY_{QUANTS[precision.matrices]}"))
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        _add_shape(writer, config)
        _add_tokenizer(writer, folder, config)
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


def _architecture(config: dict[str, Any], folder: Path) -> Architecture:
    named = (config.get("architectures") or ["unknown"])[0]
    if named not in ARCHITECTURES:
        raise ExportError(
            f"{folder}: the architecture {named} cannot be written as GGUF; {', '.join(ARCHITECTURES)} can. "
            "Export it with --format hub instead."
        )
    scaling = (config.get("rope_parameters") or {}).get("rope_type", "default")
    if scaling != "default":
        raise ExportError(
            f"{folder}: rotary positions of type {scaling!r} cannot be written as GGUF; only 'default' can."
        )
    return ARCHITECTURES[named]


def _add_shape(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    heads = config["num_attention_heads"]
    head = config.get("head_dim") or config["hidden_size"] // heads
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base((config.get("rope_parameters") or {}).get("rope_theta") or config.get("rope_theta", 1e4))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])


def _add_tokenizer(writer: gguf.GGUFWriter, folder: Path, config: dict[str, Any]) -> None:
    tokenizer = _read_json(folder / "tokenizer.json")
    bpe = tokenizer["model"]
    rule = _rule(tokenizer.get("pre_tokenizer"))
    if bpe["type"] != "BPE" or rule not in _PRE_TOKENIZERS or tokenizer.get("normalizer"):
        raise ExportError(
            f"{folder}: its tokenizer ({bpe['type']}, cut by {' then '.join(rule) or 'nothing'}) has no counterpart in "
            "llama.cpp that is known here. Export it with --format hub instead."
        )
    added = {entry["id"]: entry for entry in tokenizer["added_tokens"]}
    by_id = {index: token for token, index in bpe["vocab"].items()} | {i: e["content"] for i, e in added.items()}
    # A vocabulary may be smaller than the embedding that was padded for it.
    tokens = [by_id.get(i, f"[PAD{i}]") for i in range(config["vocab_size"])]
    kinds = [_NORMAL if i in by_id else _USER_DEFINED for i in range(config["vocab_size"])]
    for index, entry in added.items():
        kinds[index] = _CONTROL if entry["special"] else _USER_DEFINED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_PRE_TOKENIZERS[rule])
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in bpe["merges"]])
    settings = _read_json(folder / "tokenizer_config.json")
    ids = {entry["content"]: index for index, entry in added.items()} | bpe["vocab"]
    special: dict[str, Callable[[int], None]] = {
        "bos_token": writer.add_bos_token_id,
        "eos_token": writer.add_eos_token_id,
        "unk_token": writer.add_unk_token_id,
        "pad_token": writer.add_pad_token_id,
    }
    for key, add in special.items():
        token = settings.get(key)
        token = token["content"] if isinstance(token, dict) else token
        if token in ids:
            add(ids[token])
    writer.add_add_bos_token(False)  # the chat template writes what stands at the beginning
    writer.add_add_space_prefix(False)
    template = folder / "chat_template.jinja"
    text = template.read_text("utf-8") if template.exists() else settings.get("chat_template")
    if not text:
        raise ExportError(f"{folder}: the tokenizer has no chat template; choose an instruction-tuned model.")
    writer.add_chat_template(text)


def _rule(pre_tokenizer: dict[str, Any] | None) -> tuple[str, ...]:
    """The form of a tokenizer.json's pre_tokenizer, by which its rule is known."""
    if not pre_tokenizer:
        return ()
    if pre_tokenizer["type"] == "Sequence":
        return tuple(part for inner in pre_tokenizer["pretokenizers"] for part in _rule(inner))
    kind = pre_tokenizer["type"]
    match pre_tokenizer:
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": uses}:
            return ("ByteLevel:regex" if uses else "ByteLevel",)
        case {"type": "Digits", "individual_digits": True}:
            return ("Digits:individual",)
        case {"type": "Split", "pattern": {"Regex": pattern}}:
            return (f"Split:{pattern}",)
    return (kind,)


def _tensors(folder: Path, config: dict[str, Any], architecture: Architecture) -> Iterator[tuple[str, np.ndarray]]:
    """(GGUF name, float32 values) of every tensor. Raises ModelError for one that has no place in the file."""
    from safetensors import safe_open

    names = _LAYER | architecture.names
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as weights:
            for key in weights.keys():  # noqa: SIM118  (no mapping: it has only this method)
                if key == "lm_head.weight" and config.get("tie_word_embeddings"):
                    continue
                module, _, kind = key.rpartition(".")
                values = weights.get_tensor(key).float().numpy()
                if module in _OUTSIDE:
                    yield f"{_OUTSIDE[module]}.{kind}", values
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
    if tensor.startswith(("token_embd", "output")):
        return "embedding"
    return "attention" if ".attn_" in tensor else "feed_forward"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ModelError(
            f"{path}: cannot be read ({error.strerror}). Expected a model as save_pretrained writes it."
        ) from None
