"""A tokenizer.json in the words of a GGUF file.

llama.cpp knows two kinds of BPE. Byte-level BPE (GPT-2, Llama 3, Qwen, SmolLM) has its merges in the file, and the rule
that cuts a text before them by a name that llama.cpp knows. SentencePiece's BPE (Gemma 3, Phi-3, Llama 2) has a score a token
instead: the token that is merged first has the highest.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distiller.errors import ExportError, ModelError

if TYPE_CHECKING:
    import gguf

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
#: The rule that cuts a text before byte-level BPE, by its form in tokenizer.json → llama.cpp's name of it.
_RULES = {
    ("ByteLevel:regex",): "gpt-2",
    ("Digits:individual", "ByteLevel:regex"): "smollm",
    (f"Split:{_CONTRACTIONS}|{_LETTERS}|\\p{{N}}{{1,3}}|{_REST}", "ByteLevel"): "llama-bpe",
    (f"Split:{_CONTRACTIONS}|{_LETTERS}|\\p{{N}}|{_REST}", "ByteLevel"): "qwen2",
}
_REPLACE_SPACE = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
_PREPEND = {"type": "Prepend", "prepend": "▁"}


def add_tokenizer(writer: gguf.GGUFWriter, folder: Path, vocabulary_size: int) -> None:
    """Writes tokens, merges or scores, special tokens and the chat template. Raises ExportError for a tokenizer that
    llama.cpp has no counterpart of, ModelError for a folder without one."""
    tokenizer, settings = read_json(folder / "tokenizer.json"), read_json(folder / "tokenizer_config.json")
    bpe = tokenizer["model"]
    added = {entry["id"]: entry for entry in tokenizer["added_tokens"]}
    by_id = {index: token for token, index in bpe["vocab"].items()} | {i: e["content"] for i, e in added.items()}
    # A vocabulary may be smaller than the embedding that was padded for it.
    tokens = [by_id.get(i, f"[PAD{i}]") for i in range(vocabulary_size)]
    kinds = [_NORMAL if i in by_id else _UNUSED for i in range(vocabulary_size)]
    for index, entry in added.items():
        kinds[index] = _CONTROL if entry["special"] else _USER_DEFINED
    if bpe.get("byte_fallback"):
        _add_sentencepiece(writer, folder, tokenizer, tokens, kinds)
    else:
        _add_byte_level(writer, folder, tokenizer)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    _add_special(writer, folder, settings, {entry["content"]: index for index, entry in added.items()} | bpe["vocab"])
    writer.add_add_bos_token(False)  # the chat template writes what stands at the beginning
    template = folder / "chat_template.jinja"
    text = template.read_text("utf-8") if template.exists() else settings.get("chat_template")
    if not text:
        raise ExportError(f"{folder}: the tokenizer has no chat template; choose an instruction-tuned model.")
    writer.add_chat_template(text)


def _add_byte_level(writer: gguf.GGUFWriter, folder: Path, tokenizer: dict[str, Any]) -> None:
    bpe, rule = tokenizer["model"], _rule(tokenizer.get("pre_tokenizer"))
    # NFC (Qwen's) is left out, as it is in every GGUF file of theirs: it changes only texts that are not composed.
    if bpe["type"] != "BPE" or rule not in _RULES or tokenizer.get("normalizer") not in (None, {"type": "NFC"}):
        raise _no_counterpart(folder, bpe["type"], rule)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_RULES[rule])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in bpe["merges"]])
    writer.add_add_space_prefix(False)


def _add_sentencepiece(
    writer: gguf.GGUFWriter, folder: Path, tokenizer: dict[str, Any], tokens: list[str], kinds: list[int]
) -> None:
    bpe, normalizer, cut = tokenizer["model"], tokenizer.get("normalizer"), tokenizer.get("pre_tokenizer")
    # With spaces replaced, a cut at spaces finds none.
    cuts = cut is not None and (cut.get("type"), cut.get("pattern")) != ("Split", {"String": " "})
    prefixed = normalizer == {"type": "Sequence", "normalizers": [_PREPEND, _REPLACE_SPACE]}
    if cuts or not (prefixed or normalizer == _REPLACE_SPACE):
        raise _no_counterpart(folder, "BPE with bytes to fall back on", _rule(cut))
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(bpe["merges"]):
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        ranks.setdefault(left + right, rank)
    for index, token in enumerate(tokens):
        if len(token) == 6 and token.startswith("<0x"):
            kinds[index] = _BYTE
        elif token == bpe.get("unk_token"):
            kinds[index] = _UNKNOWN
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_scores([-float(ranks.get(token, len(ranks))) for token in tokens])
    writer.add_add_space_prefix(prefixed)


def _add_special(writer: gguf.GGUFWriter, folder: Path, settings: Mapping[str, Any], ids: Mapping[str, int]) -> None:
    special: dict[str, Callable[[int], None]] = {
        "bos_token": writer.add_bos_token_id,
        "eos_token": writer.add_eos_token_id,
        "unk_token": writer.add_unk_token_id,
        "pad_token": writer.add_pad_token_id,
    }
    for key, add in special.items():
        token = settings.get(key)
        token = token["content"] if isinstance(token, dict) else token
        if isinstance(token, str) and token in ids:
            add(ids[token])
            if key == "eos_token":
                other = [end for end in ends_of_reply(folder) if end != ids[token]]
                if other:  # Gemma's <end_of_turn> beside its <eos>
                    writer.add_eot_token_id(other[-1])


def ends_of_reply(folder: Path) -> list[int]:
    """Ids of the tokens that end a reply, by generation_config.json."""
    path = folder / "generation_config.json"
    ends = read_json(path).get("eos_token_id") if path.exists() else None
    return ends if isinstance(ends, list) else [ends] if ends is not None else []


def _no_counterpart(folder: Path, kind: str, rule: tuple[str, ...]) -> ExportError:
    return ExportError(
        f"{folder}: its tokenizer ({kind}, cut by {' then '.join(rule) or 'nothing'}) has no counterpart in "
        "llama.cpp that is known here. Export it with --format hub instead."
    )


def _rule(pre_tokenizer: dict[str, Any] | None) -> tuple[str, ...]:
    """The form of a tokenizer.json's pre_tokenizer, by which its rule is known."""
    if not pre_tokenizer:
        return ()
    if pre_tokenizer["type"] == "Sequence":
        return tuple(part for inner in pre_tokenizer["pretokenizers"] for part in _rule(inner))
    match pre_tokenizer:
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": uses}:
            return ("ByteLevel:regex" if uses else "ByteLevel",)
        case {"type": "Digits", "individual_digits": True}:
            return ("Digits:individual",)
        case {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}:
            return (f"Split:{pattern}",)
    return (pre_tokenizer["type"],)


def read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ModelError(
            f"{path}: cannot be read ({error.strerror}). Expected a model as save_pretrained writes it."
        ) from None
