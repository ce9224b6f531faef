"""Every family that can be written says in llama.cpp what it says in transformers: random weights, both tokenizers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distiller.chat.base import ChatRequest, Sampling
from distiller.errors import ExportError
from distiller.export.gguf_architectures import rope_factors
from distiller.export.gguf_file import Precision, write_gguf
from distiller.export.gguf_tokenizer import _RULES
from distiller.export.verify import verify
from distiller.student import choose_tokens, trim_vocabulary
from tests.tiny import QUERIES, REPLIES, user

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
}
#: The window is shorter than the prompts, so that the layers that do not slide show.
GEMMA = SIZES | {
    "num_hidden_layers": 7,
    "head_dim": 16,
    "query_pre_attn_scalar": 16,
    "sliding_window": 8,
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
        "full_attention": {"rope_type": "default", "rope_theta": 2000.0},
    },
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "partial_rotary_factor": 0.75,
    "short_factor": [1.0, 1.1, 1.3, 1.4, 1.5, 1.7],
    "long_factor": [2.0, 3.0, 4.0, 5.0, 6.0, 7.0],
    "original_max_position_embeddings": 4096,
}
#: llama.cpp goes over to the long factors when a conversation may become longer than the original context.
LONG = {"rope_parameters": LONG_ROPE, "max_position_embeddings": 8192, "original_max_position_embeddings": 4096}


@pytest.fixture(scope="module")
def byte_level(bundled_folder: Path) -> Any:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(bundled_folder)
    return _with(tokenizer, lambda backend: None)


def _with(tokenizer: Any, change: Callable[[dict[str, Any]], None]) -> Any:
    """The tokenizer with another tokenizer.json."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    change(backend)
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(backend)),
        bos_token=tokenizer.bos_token,
        eos_token=tokenizer.eos_token,
        pad_token=tokenizer.pad_token,
        chat_template=tokenizer.chat_template,
        clean_up_tokenization_spaces=False,
    )


def cut_by(tokenizer: Any, name: str) -> Any:
    """The tokenizer with the rule that llama.cpp calls `name`."""
    pattern = next(rule[0].removeprefix("Split:") for rule, known in _RULES.items() if known == name)
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    rest = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}

    def change(backend: dict[str, Any]) -> None:
        backend["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, rest]}
        backend["normalizer"] = {"type": "NFC"} if name == "qwen2" else None

    return _with(tokenizer, change)


def sentencepiece(*, prefix: bool) -> Any:
    """A small tokenizer of SentencePiece's kind; `prefix`: a space before every text, as Llama 2 and Phi-3 have it."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    special = ["<pad>", "<s>", "</s>", "<unk>", "<turn>", "</turn>"]
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    replace = normalizers.Replace(" ", "▁")
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace]) if prefix else replace
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=[*special, *bytes_], show_progress=False)
    backend.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    backend.train_from_iterator([*QUERIES, *REPLIES], trainer)
    backend.pre_tokenizer = None if prefix else pre_tokenizers.Split(" ", "merged_with_previous")
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            *([decoders.Strip(" ", 1)] if prefix else []),
        ]
    )
    # Bytes are ordinary tokens: nobody writes their names.
    content = json.loads(backend.to_str())
    content["added_tokens"] = [entry for entry in content["added_tokens"] if entry["content"] in special]
    template = (
        "{{ bos_token }}{% for m in messages %}<turn>{{ m.role }}\n{{ m.content }}</turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)),
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        chat_template=template,
        clean_up_tokenization_spaces=False,
    )


def save(folder: Path, tokenizer: Any, config: str, **settings: Any) -> Path:
    import torch
    import transformers

    torch.manual_seed(0)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    made = getattr(transformers, config)(vocab_size=len(tokenizer), **SIZES | ids | settings)
    model = transformers.AutoModelForCausalLM.from_config(made)
    for name, values in model.named_parameters():  # norms and biases begin alike, and would hide a mistake
        if values.ndim == 1:
            values.data += 0.3 * torch.randn_like(values)
        elif "lm_head" in name:
            values.data *= 2
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def judged(folder: Path, quant: str = "f16") -> dict[str, Any]:
    target = folder.parent / f"{folder.name}.gguf"
    write_gguf(folder, target, quant)
    requests = [ChatRequest(messages=user(q), sampling=Sampling(max_tokens=6)) for q in QUERIES[:6]]
    return verify(target, folder, Precision(quant, quant), requests)


FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama 3.1": ("LlamaConfig", "llama-bpe", {"rope_parameters": LLAMA3_ROPE}),
    "llama 2": ("LlamaConfig", "prefixed", {}),
    "biased llama": ("LlamaConfig", "smollm", {"attention_bias": True, "tie_word_embeddings": True}),
    "mistral": ("MistralConfig", "prefixed", {"sliding_window": 512, "head_dim": 32}),
    "qwen2": ("Qwen2Config", "qwen2", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    "qwen3": ("Qwen3Config", "qwen2", {"head_dim": 32, "tie_word_embeddings": True}),
    "phi3": ("Phi3Config", "prefixed", {}),
    "phi4-mini": ("Phi3Config", "smollm", LONG),
    "gemma3": ("Gemma3TextConfig", "unprefixed", GEMMA),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_llama_cpp_gives_what_transformers_gives(family: str, byte_level: Any, tmp_path: Path) -> None:
    config, tokenizer, settings = FAMILIES[family]
    match tokenizer:
        case "prefixed" | "unprefixed":
            chosen = sentencepiece(prefix=tokenizer == "prefixed")
        case "smollm":
            chosen = byte_level
        case _:
            chosen = cut_by(byte_level, tokenizer)
    found = judged(save(tmp_path / "model", chosen, config, **settings))
    assert found["tokenizer"]["different"] == []
    assert found["reasons"] == []
    assert found["against_the_original"]["kl_max"] < 1e-3
    assert found["against_the_original"]["same_likeliest_token"] > 0.9  # random weights have near ties


def test_a_trimmed_sentencepiece_vocabulary_keeps_its_merges(tmp_path: Path) -> None:
    """Scores are ranks of merges, which trimming leaves gaps in; words that are gone fall back on pieces and bytes."""
    from transformers import AutoModelForCausalLM

    whole = sentencepiece(prefix=True)
    folder = save(tmp_path / "whole", whole, "LlamaConfig", tie_word_embeddings=True)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    kept = choose_tokens(whole, QUERIES[:2], 450)
    tokenizer = trim_vocabulary(model, whole, kept)
    model.save_pretrained(tmp_path / "trimmed")
    tokenizer.save_pretrained(tmp_path / "trimmed")
    assert len(kept) < len(whole)
    assert judged(tmp_path / "trimmed")["reasons"] == []


def test_rope_factors_of_llama_3_by_hand() -> None:
    """Frequencies 1 and 1/100 over 64 tokens: 10.2 turns are left alone, 0.1 are stretched by the whole factor."""
    rope = LLAMA3_ROPE | {"rope_theta": 1e4}
    factors = rope_factors({"rope_parameters": rope, "head_dim": 4})["rope_freqs.weight"]
    assert factors.tolist() == [1.0, 8.0]


@pytest.mark.parametrize(
    ("config", "settings", "words"),
    [
        ("LlamaConfig", {"hidden_act": "gelu"}, "computes silu"),
        (
            "Qwen2Config",
            {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0},
            "use_sliding_window",
        ),
        ("Gemma3TextConfig", GEMMA | {"layer_types": ["full_attention"] * 7}, "every sixth layer is full"),
        ("Gemma3TextConfig", GEMMA | {"query_pre_attn_scalar": 32}, "query_pre_attn_scalar 32"),
        ("Qwen2Config", {"rope_parameters": LLAMA3_ROPE}, "'llama3' cannot be written as GGUF for Qwen2ForCausalLM"),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(
    config: str, settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    folder = save(tmp_path / "model", sentencepiece(prefix=False), config, **settings)
    with pytest.raises(ExportError, match=words):
        write_gguf(folder, tmp_path / "m.gguf", "f16")
    assert not list(tmp_path.glob("*.gguf"))
