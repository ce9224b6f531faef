"""Which layers and which neurons a model misses least on a domain: measured, not guessed.

Layers are dropped a few at a time, those whose absence raises the loss least, and what is left is measured again: two
layers that do the same work look unimportant each, until one of them is gone. Greedy, as in Men et al. 2024 (ShortGPT,
arXiv:2403.03853), with the domain's own loss in the place of a similarity of hidden states.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from distiller.errors import ModelError, TrainingError
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


def important_neurons(model: Any, examples: Sequence[Example], wanted: int) -> list[list[int]]:
    """The `wanted` neurons of each layer's feed-forward part, rising.

    A neuron's part in what its layer adds is its mean activation in size, over the examples' tokens, times the norm of
    the column that it is multiplied with: the activation of Minitron (Muralidharan et al. 2024, arXiv:2407.14679)
    weighed as in Wanda (Sun et al. 2023, arXiv:2306.11695).

    Raises TrainingError where a layer has fewer, ModelError where its parts are not called as in Llama.
    """
    import torch

    parts = [_feed_forward(layer) for layer in layers_of(model)]
    have = parts[0].down_proj.in_features
    if wanted > have:
        raise TrainingError(
            f"student.intermediate_size {wanted}: the model's layers have {have} neurons; choose at most so many."
        )
    sums = [torch.zeros(have) for _ in parts]

    def count(place: int) -> Callable[[Any, tuple[Any, ...]], None]:
        def add(module: Any, inputs: tuple[Any, ...]) -> None:
            sums[place].add_(inputs[0].float().abs().sum(dim=(0, 1)))

        return add

    hooks = [part.down_proj.register_forward_pre_hook(count(place)) for place, part in enumerate(parts)]
    try:
        with torch.inference_mode():
            for example in _some(examples):
                model.get_decoder()(input_ids=torch.tensor([example.ids]), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    scores = [total * part.down_proj.weight.float().norm(dim=0) for total, part in zip(sums, parts, strict=True)]
    return [sorted(score.topk(wanted).indices.tolist()) for score in scores]


def keep_neurons(model: Any, neurons: Sequence[Sequence[int]]) -> None:
    """Keeps `neurons` of each layer's feed-forward part, in place."""
    import torch

    for layer, kept in zip(layers_of(model), neurons, strict=True):
        part, index = _feed_forward(layer), torch.tensor(kept)
        for name in ("gate_proj", "up_proj"):
            linear = getattr(part, name)
            linear.weight = torch.nn.Parameter(linear.weight.data[index].clone())
            if linear.bias is not None:
                linear.bias = torch.nn.Parameter(linear.bias.data[index].clone())
            linear.out_features = len(kept)
        part.down_proj.weight = torch.nn.Parameter(part.down_proj.weight.data[:, index].clone())
        part.down_proj.in_features = part.intermediate_size = len(kept)
    model.config.get_text_config().intermediate_size = len(neurons[0])


def _feed_forward(layer: Any) -> Any:
    part = getattr(layer, "mlp", None)
    if not all(hasattr(part, name) for name in ("gate_proj", "up_proj", "down_proj")):
        raise ModelError(
            f"{type(layer).__name__}: its feed-forward part has no gate, up and down projection of its own; leave "
            "student.intermediate_size unset."
        )
    return part


def _some(examples: Sequence[Example]) -> list[Example]:
    """Spread over the data, about TOKENS tokens of them."""
    mean = sum(len(example.ids) for example in examples) / len(examples)
    step = max(1, round(len(examples) * mean / TOKENS))
    return list(examples[::step])
