"""The families of models that a GGUF file can hold: how llama.cpp names their tensors, and what its header says of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from distiller.errors import ExportError

if TYPE_CHECKING:
    import gguf
    import numpy as np

#: A model's config.json, with transformers' defaults filled in.
Config = Mapping[str, Any]

#: Tensor names of a decoder layer after `model.layers.N.` → GGUF's after `blk.N.`, where all families agree.
_COMMON = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_TWO_NORMS = {"post_attention_layernorm": "ffn_norm"}
_FOUR_NORMS = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_HEAD_NORMS = {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
_FUSED = {"self_attn.qkv_proj": "attn_qkv", "mlp.gate_up_proj": "ffn_up"}
OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


@dataclass(frozen=True)
class Architecture:
    """How llama.cpp knows a family."""

    name: str
    #: Layer tensors that this family has beside the common ones, or names in its own way.
    own_names: Mapping[str, str] = field(default_factory=lambda: _TWO_NORMS)
    #: llama.cpp turns neighbouring pairs of a head's rows where transformers turns its two halves.
    interleaved_rope: bool = False
    #: Added to the weights of norms: transformers multiplies by 1 + weight, llama.cpp by the weight.
    norm_offset: float = 0.0
    activation: str = "silu"
    rope_types: tuple[str, ...] = ("default",)
    #: What only this family's header says. Raises ExportError for what llama.cpp would compute otherwise.
    header: Callable[[gguf.GGUFWriter, Config], None] | None = None

    @property
    def names(self) -> dict[str, str]:
        return _COMMON | dict(self.own_names)


def _gemma3(writer: gguf.GGUFWriter, config: Config) -> None:
    """llama.cpp takes the kind of attention from a layer's number: every sixth looks at everything."""
    expected = [
        "full_attention" if (i + 1) % 6 == 0 else "sliding_attention" for i in range(config["num_hidden_layers"])
    ]
    if config["layer_types"] != expected:
        raise ExportError(
            "the layers that were kept have another order of sliding and full attention than llama.cpp's Gemma 3, whose "
            "every sixth layer is full. Choose student.layers so that theirs is the same, or use --format hub."
        )
    if config["query_pre_attn_scalar"] != config["head_dim"]:
        raise ExportError(
            f"query_pre_attn_scalar {config['query_pre_attn_scalar']}: llama.cpp's Gemma 3 scales by the head's size, "
            f"{config['head_dim']}. Use --format hub."
        )
    writer.add_sliding_window(config["sliding_window"])
    writer.add_rope_freq_base_swa(config["rope_parameters"]["sliding_attention"]["rope_theta"])


ARCHITECTURES = {
    "LlamaForCausalLM": Architecture("llama", interleaved_rope=True, rope_types=("default", "llama3")),
    "MistralForCausalLM": Architecture("llama", interleaved_rope=True),
    "Qwen2ForCausalLM": Architecture("qwen2"),
    "Qwen3ForCausalLM": Architecture("qwen3", _TWO_NORMS | _HEAD_NORMS),
    "Phi3ForCausalLM": Architecture("phi3", _TWO_NORMS | _FUSED, rope_types=("default", "longrope")),
    "Gemma3ForCausalLM": Architecture(
        "gemma3", _FOUR_NORMS | _HEAD_NORMS, norm_offset=1.0, activation="gelu_pytorch_tanh", header=_gemma3
    ),
}


def architecture_of(config: Config) -> Architecture:
    """Raises ExportError for one that is not known, and for settings that llama.cpp does not compute."""
    named = (config.get("architectures") or ["unknown"])[0]
    if named not in ARCHITECTURES:
        raise ExportError(
            f"the architecture {named} cannot be written as GGUF; {', '.join(ARCHITECTURES)} can. "
            "Export it with --format hub instead."
        )
    found = ARCHITECTURES[named]
    activation = config.get("hidden_activation") or config.get("hidden_act")
    if activation != found.activation:
        raise ExportError(
            f"{named} with {activation} cannot be written as GGUF; llama.cpp computes {found.activation}."
        )
    kind = rope_of(config).get("rope_type", "default")
    if kind not in found.rope_types:
        raise ExportError(
            f"rotary positions of type {kind!r} cannot be written as GGUF for {named}; "
            f"{', '.join(map(repr, found.rope_types))} can."
        )
    if config.get("use_sliding_window"):
        raise ExportError(
            f"{named} with use_sliding_window cannot be written as GGUF: llama.cpp lets it look at everything."
        )
    return found


def rope_of(config: Config) -> dict[str, Any]:
    """The settings of the rotary positions; where kinds of layers have their own, those of full attention."""
    rope: dict[str, Any] = config["rope_parameters"]
    return rope.get("full_attention", rope)


def head_size(config: Config) -> int:
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def add_shape(writer: gguf.GGUFWriter, config: Config, architecture: Architecture) -> None:
    """What the header says of every family: sizes, heads, positions."""
    heads, head, rope = config["num_attention_heads"], head_size(config), rope_of(config)
    context = config["max_position_embeddings"]
    if architecture.header is None and config.get("sliding_window"):
        # llama.cpp lets these families look at everything; within the window that is the same.
        context = min(context, config["sliding_window"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(context)
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(int(head * rope.get("partial_rotary_factor", 1.0)))
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    if rope.get("rope_type") == "longrope":
        before = _length_before(config)
        scale = config["max_position_embeddings"] / before
        factor = rope.get("attention_factor") or (
            math.sqrt(1 + math.log(scale) / math.log(before)) if scale > 1 else 1.0
        )
        writer.add_rope_scaling_orig_ctx_len(before)
        writer.add_rope_scaling_attn_factors(factor)
    if architecture.header is not None:
        architecture.header(writer, config)


def rope_factors(config: Config) -> dict[str, np.ndarray]:
    """Divisors of the rotary frequencies, a number for each pair of a head's rows, as tensors of the file.

    llama3: Llama 3.1's scaling (Dubey et al. 2024, arXiv:2407.21783), whose wavelengths above the original context over
    `low_freq_factor` are stretched by `factor`, those below it over `high_freq_factor` not at all, smoothly between.
    longrope: found by search (Ding et al. 2024, arXiv:2402.13753); one set for contexts as before, one for longer ones.
    """
    import numpy as np

    rope = rope_of(config)
    match rope.get("rope_type"):
        case "llama3":
            head, before = head_size(config), rope["original_max_position_embeddings"]
            frequencies = rope["rope_theta"] ** (-np.arange(0, head, 2, dtype=np.float64) / head)
            turns = before * frequencies / (2 * math.pi)  # within the original context
            low, high = rope["low_freq_factor"], rope["high_freq_factor"]
            smooth = np.clip((turns - low) / (high - low), 0, 1)
            return {"rope_freqs.weight": (1 / ((1 - smooth) / rope["factor"] + smooth)).astype(np.float32)}
        case "longrope":
            return {
                f"rope_factors_{kind}.weight": np.asarray(rope[f"{kind}_factor"], dtype=np.float32)
                for kind in ("long", "short")
            }
    return {}


def _length_before(config: Config) -> int:
    """The context that the model had before it was stretched, in tokens."""
    rope = rope_of(config)
    return rope.get("original_max_position_embeddings") or config["original_max_position_embeddings"]
