"""Which layers a model misses least on a domain: measured, not guessed.

Layers are dropped a few at a time, those whose absence raises the loss least, and what is left is measured again: two
layers that do the same work look unimportant each, until one of them is gone. Greedy, as in Men et al. 2024 (ShortGPT,
arXiv:2403.03853), with the domain's own loss in the place of a similarity of hidden states.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from distiller.student import layers_of
from distiller.training.tokenize import IGNORE, Example

#: Tokens on which a stack of layers is measured: enough to tell layers apart, and a second on a small machine.
TOKENS = 2000
#: A round drops this share of the layers that are left.
SHARE = 8


def important_layers(
    model: Any, examples: Sequence[Example], wanted: int, say: Callable[[str], None] = lambda _: None
) -> list[int]:
    """The `wanted` layers that remain, rising. `model` is left as it was.

    `examples` are conversations of the domain with their targets; the first layer, which reads the embeddings, stays.
    """
    import torch

    decoder, config = model.get_decoder(), model.config.get_text_config()
    every, count = layers_of(model), config.num_hidden_layers
    some = _some(examples)

    @torch.inference_mode()
    def loss(keep: Sequence[int]) -> float:
        decoder.layers, config.num_hidden_layers = torch.nn.ModuleList(every[i] for i in keep), len(keep)
        total, targets = 0.0, 0
        for example in some:
            labels = torch.tensor(example.labels)[1:]
            trained = labels != IGNORE
            hidden = decoder(input_ids=torch.tensor([example.ids]), use_cache=False).last_hidden_state[0, :-1]
            logits = model.get_output_embeddings()(hidden[trained]).float()
            total += float(torch.nn.functional.cross_entropy(logits, labels[trained], reduction="sum"))
            targets += int(trained.sum())
        return total / targets

    keep = list(range(count))
    try:
        while len(keep) > wanted:
            losses = {layer: loss([k for k in keep if k != layer]) for layer in keep[1:]}
            drop = sorted(losses, key=losses.__getitem__)[: min(max(1, len(keep) // SHARE), len(keep) - wanted)]
            keep = [layer for layer in keep if layer not in drop]
            dropped = ", ".join(map(str, sorted(drop)))
            say(f"Without layer {dropped}: loss {loss(keep):.2f} on the domain, {len(keep)} layers left")
    finally:
        decoder.layers, config.num_hidden_layers = torch.nn.ModuleList(every), count
    return keep


def _some(examples: Sequence[Example]) -> list[Example]:
    """Spread over the data, about TOKENS tokens of them."""
    mean = sum(len(example.ids) for example in examples) / len(examples)
    step = max(1, round(len(examples) * mean / TOKENS))
    return list(examples[::step])
