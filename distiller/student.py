"""The student: an existing model, or one cut from it: some layers, some neurons of each, some of the vocabulary.

The result is a plain folder: `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained`
load it with no code of ours. The kept table (new id → old id) is saved beside it as `kept_tokens.json`.

Any text still encodes: all byte (or byte-fallback) tokens are kept, and kept tokens are closed under
their merges, so a text whose tokens are all kept encodes to the same tokens as before.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distiller.errors import ModelError, TrainingError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from distiller.training.tokenize import Example

KEPT_TOKENS = "kept_tokens.json"


def choose_layers(total: int, wanted: int | Sequence[int]) -> list[int]:
    """Evenly spread layers, first and last among them; a list is checked and taken as it is."""
    if not isinstance(wanted, int):
        layers = list(wanted)
        bad = [layer for layer in layers if not 0 <= layer < total]
        if bad or len(set(layers)) != len(layers) or layers != sorted(layers) or not layers:
            raise TrainingError(f"student.layers {layers}: expected rising numbers from 0 to {total - 1}.")
        return layers
    if not 1 <= wanted <= total:
        raise TrainingError(f"student.layers {wanted}: the model has {total} layers; choose 1 to {total}.")
    if wanted == 1:
        return [0]
    return [round(k * (total - 1) / (wanted - 1)) for k in range(wanted)]


def layers_of(model: Any) -> list[Any]:
    """The decoder's layers. Raises ModelError where they are not to be found."""
    decoder = model.get_decoder()
    if not hasattr(decoder, "layers"):
        raise ModelError(
            f"{type(model).__name__}: its layers are not where they are looked for; leave student.layers unset."
        )
    return list(decoder.layers)


def prune_layers(model: Any, layers: Sequence[int]) -> None:
    """Keeps `layers` of the decoder, in place. Per-layer settings of the configuration are cut alike."""
    import torch

    every, decoder = layers_of(model), model.get_decoder()
    config = model.config.get_text_config()
    decoder.layers = torch.nn.ModuleList(every[i] for i in layers)
    for index, layer in enumerate(decoder.layers):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = index
    for key, value in list(config.to_dict().items()):
        if (
            isinstance(value, list)
            and len(value) == config.num_hidden_layers
            and key in {"layer_types", "no_rope_layers"}
        ):
            setattr(config, key, [value[i] for i in layers])
    config.num_hidden_layers = len(layers)


def choose_tokens(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], size: int | None) -> list[int]:
    """Old ids to keep, rising. Special and byte tokens, those of `texts`, then the most frequent ones of the
    language (BPE ids rise as merges get rarer) up to `size`; all closed under their merges.

    Raises TrainingError when `size` is too small for what must be kept.
    """
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    model = backend["model"]
    if model["type"] != "BPE":
        raise ModelError(
            f"the tokenizer is {model['type']}, and only BPE can be trimmed; leave student.vocabulary_size unset."
        )
    vocabulary: dict[str, int] = model["vocab"]
    pairs_of: dict[str, list[tuple[str, str]]] = {}
    for left, right in _merges(model):
        pairs_of.setdefault(left + right, []).append((left, right))
    kept: set[str] = set()

    def keep(token: str) -> None:
        stack = [token]
        while stack:
            piece = stack.pop()
            if piece in kept or piece not in vocabulary:
                continue
            kept.add(piece)
            for pair in pairs_of.get(piece, ()):
                stack.extend(pair)

    # Byte-level BPE has one character a byte. With byte fallback the bytes are tokens of their own, and of
    # the single characters (thousands, in many scripts) only those of ASCII and the space mark are kept.
    fallback = bool(model.get("byte_fallback"))
    for token in vocabulary:
        is_byte = len(token) == 6 and token.startswith("<0x")
        if is_byte or (len(token) == 1 and (not fallback or token.isascii() or token == "▁")):
            keep(token)
    special = {entry["content"] for entry in backend["added_tokens"]}
    for token in [*special, *filter(None, [model.get("unk_token")])]:
        keep(token)
    counts: Counter[int] = Counter()
    for text in texts:
        counts.update(tokenizer(text, add_special_tokens=False).input_ids)
    names = {index: token for token, index in vocabulary.items()}
    for index, _ in counts.most_common():
        if index in names:
            keep(names[index])
    if size is not None and len(kept) > size:
        raise TrainingError(
            f"student.vocabulary_size {size}: the training texts, bytes and special tokens need {len(kept)} tokens. Raise it."
        )
    if size is not None:
        for token, _ in sorted(vocabulary.items(), key=lambda item: item[1]):
            if len(kept) >= size:
                break
            # A token whose merges would overfill is left out; a later one may still fit.
            closure = _closure(token, pairs_of, kept)
            if len(kept) + len(closure) <= size:
                kept |= closure
    ids = {vocabulary[token] for token in kept}
    ids |= {entry["id"] for entry in backend["added_tokens"]}
    return sorted(ids)


def trim_vocabulary(model: Any, tokenizer: PreTrainedTokenizerBase, kept: Sequence[int]) -> PreTrainedTokenizerBase:
    """Cuts the embeddings of `model` in place to the `kept` ids, and gives the tokenizer that goes with them."""
    import torch
    from tokenizers import Tokenizer

    new_id = {old: new for new, old in enumerate(kept)}
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    bpe = backend["model"]
    names = {token: new_id[index] for token, index in bpe["vocab"].items() if index in new_id}
    merged = [(a, b) for a, b in _merges(bpe) if a in names and b in names and a + b in names]
    bpe["vocab"] = names
    bpe["merges"] = [[a, b] for a, b in merged]
    for entry in backend["added_tokens"]:
        entry["id"] = new_id[entry["id"]]
    _renumber_post_processor(backend.get("post_processor"), new_id)
    fast = Tokenizer.from_str(json.dumps(backend))
    trimmed = type(tokenizer)(
        tokenizer_object=fast,
        **{key: str(value) for key, value in tokenizer.special_tokens_map.items() if isinstance(value, str)},
        chat_template=tokenizer.chat_template,
        model_max_length=tokenizer.model_max_length,
        clean_up_tokenization_spaces=False,
    )
    index = torch.tensor(kept)
    tied = model.config.get_text_config().tie_word_embeddings
    old_input, old_output = model.get_input_embeddings(), model.get_output_embeddings()
    rows = old_input.weight.data[index].clone()
    out_rows = None if tied or old_output is None else old_output.weight.data[index].clone()
    model.resize_token_embeddings(len(kept), mean_resizing=False)
    model.get_input_embeddings().weight.data.copy_(rows)
    if out_rows is not None:
        model.get_output_embeddings().weight.data.copy_(out_rows)
    for config in (model.config, model.config.get_text_config(), model.generation_config):
        for key in ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id"):
            value = getattr(config, key, None)
            if isinstance(value, int):
                setattr(config, key, new_id.get(value))
            elif isinstance(value, list):
                setattr(config, key, [new_id[v] for v in value if v in new_id])
    return trimmed


def build_student(
    source: str,
    texts: Sequence[str],
    folder: Path,
    layers: int | Sequence[int] | None,
    vocabulary_size: int | None,
    *,
    intermediate_size: int | None = None,
    by_importance: bool = False,
    examples: Callable[[Any], Sequence[Example]] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Makes the student before distillation in `folder`, in bfloat16. Gives what was kept, for the manifest.

    `examples(tokenizer)` are conversations of the domain, on which it is measured what to keep: the `intermediate_size`
    neurons of each feed-forward layer, and with `by_importance` the layers where their number is given; without it those
    are spread evenly.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from distiller import importance
    from distiller.chat.transformers_local import LOAD_ERRORS

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(source)
        model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    except LOAD_ERRORS as error:
        raise ModelError(f"{source}: cannot be loaded: {str(error).splitlines()[0]}") from None
    if not tokenizer.chat_template:
        raise ModelError(f"{source}: the tokenizer has no chat template; choose an instruction-tuned student.")
    facts: dict[str, Any] = {"source_parameters": model.num_parameters()}
    measured_on = examples(tokenizer) if examples else []
    chosen = list(range(model.config.get_text_config().num_hidden_layers))
    if layers is not None:
        chosen = choose_layers(len(chosen), layers)
        if by_importance and isinstance(layers, int):
            chosen = importance.important_layers(model, measured_on, layers, say)
        facts["layers"] = chosen
    neurons = None
    if intermediate_size is not None:
        # Of the whole model: cut first, it would be measured on text that it does not understand any more.
        neurons = importance.important_neurons(model, measured_on, intermediate_size)
        facts["intermediate_size"] = intermediate_size
    if layers is not None:
        prune_layers(model, chosen)
    if neurons is not None:
        importance.keep_neurons(model, [neurons[layer] for layer in chosen])
    if vocabulary_size is not None:
        kept = choose_tokens(tokenizer, [*texts, _template_text(tokenizer)], vocabulary_size)
        tokenizer = trim_vocabulary(model, tokenizer, kept)
        facts["vocabulary_size"] = len(kept)
    partial = folder.with_name(f".{folder.name}.partial")
    model.to(torch.bfloat16).save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    if vocabulary_size is not None:
        (partial / KEPT_TOKENS).write_text(json.dumps(kept))
    partial.rename(folder)
    return facts | {"parameters": model.num_parameters()}


def kept_tokens(folder: str | Path) -> list[int] | None:
    """New id → old id of a trimmed student; None where the vocabulary is whole."""
    path = Path(folder) / KEPT_TOKENS
    return json.loads(path.read_text()) if path.exists() else None


def _template_text(tokenizer: PreTrainedTokenizerBase) -> str:
    """What the chat template itself writes, so that its tokens are kept too."""
    from distiller.chat.transformers_local import render_messages
    from distiller.schema import Message

    roles = [Message(role=role, content="x") for role in ("system", "user", "assistant", "user", "tool")]
    # With a system message, without one (some templates then write their own), and over several turns.
    parts = (roles[:2], roles[1:2], roles[:4])
    return "\n".join(render_messages(tokenizer, part, add_generation_prompt=True) for part in parts)


def _merges(model: dict[str, Any]) -> list[tuple[str, str]]:
    pairs = (m.split(" ", 1) if isinstance(m, str) else m for m in model["merges"])
    return [(left, right) for left, right in pairs]


def _closure(token: str, pairs_of: dict[str, list[tuple[str, str]]], kept: set[str]) -> set[str]:
    found: set[str] = set()
    stack = [token]
    while stack:
        piece = stack.pop()
        if piece not in kept and piece not in found:
            found.add(piece)
            for pair in pairs_of.get(piece, ()):
                stack.extend(pair)
    return found


def _renumber_post_processor(processor: dict[str, Any] | None, new_id: dict[int, int]) -> None:
    if not processor:
        return
    for part in processor.get("processors", []):
        _renumber_post_processor(part, new_id)
    for entry in (processor.get("special_tokens") or {}).values():
        if isinstance(entry, dict) and "ids" in entry:
            entry["ids"] = [new_id[i] for i in entry["ids"]]
    for key in ("cls", "sep"):
        if isinstance(processor.get(key), list):
            processor[key][1] = new_id[processor[key][1]]
