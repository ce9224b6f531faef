"""A GGUF file against the folder it was made of: llama.cpp asked what transformers is asked.

Three things are compared: how texts are cut into tokens, the distribution of the next token, and greedy replies.
transformers answers twice: with the weights as they are, which shows what rounding costs, and with the weights rounded
as the file holds them, which shows whether the file is right. Only the second decides `faithful`: rounding is asked for,
a wrong head or a missing merge is not.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from distiller.chat.base import ChatRequest
from distiller.chat.gguf_local import GGUFModel
from distiller.chat.transformers_local import TransformersModel
from distiller.errors import ModelError
from distiller.export.gguf_file import Precision
from distiller.schema import Completion

if TYPE_CHECKING:
    import httpx

#: What tokenizers disagree about: digits, white space, contractions, scripts, emoji of several code points, special
#: tokens, words that a trimmed vocabulary no longer holds whole.
TEXTS = (
    "Where is my parcel? I ordered it on 2024-05-06, order FH1234567, for $1,249.50.",
    "1 12 123 1234 12345 0x1F 3.14159 1e-5 50% ½ ²",
    "  two  spaces, a\ttab, a\n\nblank line\r\nand an end \n",
    " ",
    "\n",
    "it's we'll I'M don't they'VE o'clock ''quoted''",
    "naïve café, Straße, São Paulo, Ελληνικά, русский, עברית, العربية, हिन्दी, ไทย",
    "日本語のテキスト、中文文本，한국어 텍스트",
    "👍 👩‍👩‍👧‍👦 🇪🇺 ❤️ é (combining) \u200b(zero width)\ufeff",
    "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis Llanfairpwllgwyngyll",
    "def f(x):\n    return {'a': [x**2, not x]}  # comment\n",
    "https://fernhill.example/track?id=42&lang=en_GB#top someone@example.com",
    "ALL CAPS, MiXeD cAsE, snake_case, kebab-case, CamelCase",
    "...!?!?— –‘’“”…«»",
    "\x00\x07\x1b control characters",
)
#: Tokens of the vocabulary, evenly spread, whose own texts are compared too.
SAMPLED_TOKENS = 200
#: Positions of each reply, evenly spread, at which the next token's distribution is compared.
POSITIONS = 4
#: Likeliest tokens of transformers that are compared by name, and how many llama.cpp is asked for to find them again.
TOP, ASKED = 20, 100
#: Mean KL, in nats, between llama.cpp and transformers on the same rounded weights, above which a file is not faithful.
#: llama.cpp rounds the activations to eight bits too where the weights are blocks of integers, hence two limits.
KL_LIMIT = {"f16": 1e-4, "q8_0": 1e-2, "q4_0": 1e-2}
#: Share of places with the same likeliest token, below which a file is not faithful. Near ties may fall either way.
SAME_TOKEN_LIMIT = 0.8


def verify(file: Path, folder: Path, precision: Precision, requests: Sequence[ChatRequest]) -> dict[str, Any]:
    """Compares and judges; the result goes into the manifest. Raises ModelError where either side cannot be loaded."""
    original = TransformersModel(f"hf:{folder}", str(folder), precision="float32")
    served = GGUFModel(f"gguf:{file}", file)
    try:
        tokenizer = _tokenizer(served, original, requests)
        theirs = asyncio.run(served.complete(requests))
        expected = asyncio.run(original.complete(requests))
        places = _places(original, requests, expected)
        letter = original.tokenizer("a", add_special_tokens=False).input_ids[-1]
        found = [_llama_cpp_top(served, ids[:end], letter) for ids, ends in places for end in ends]
        with_original = _compare(original, places, found, expected, theirs)
        _round(original, precision)
        with_rounded = _compare(original, places, found, asyncio.run(original.complete(requests)), theirs)
    finally:
        asyncio.run(served.aclose())
    reasons = []
    if tokenizer["different"]:
        reasons.append(f"{len(tokenizer['different'])} of {tokenizer['texts']} texts are cut into other tokens")
    limit = KL_LIMIT[precision.matrices]
    if not with_rounded["kl_mean"] <= limit:  # NaN is not faithful either
        reasons.append(
            f"the next token's distribution is {with_rounded['kl_mean']:.2g} nats from that of the same weights in "
            f"transformers, above {limit:g}"
        )
    if with_rounded["same_likeliest_token"] < SAME_TOKEN_LIMIT:
        reasons.append(
            f"the likeliest next token is the same in {with_rounded['same_likeliest_token']:.0%} of the places, below "
            f"{SAME_TOKEN_LIMIT:.0%}"
        )
    return {
        "faithful": not reasons,
        "reasons": reasons,
        "prompts": len(requests),
        "kl_limit": limit,
        "tokenizer": tokenizer,
        "against_the_same_rounded_weights": with_rounded,
        "against_the_original": with_original,
    }


def _tokenizer(served: GGUFModel, original: TransformersModel, requests: Sequence[ChatRequest]) -> dict[str, Any]:
    tokenizer: Any = original.tokenizer
    step = max(1, len(tokenizer) // SAMPLED_TOKENS)
    texts = [*TEXTS, *(tokenizer.decode([index]) for index in range(0, len(tokenizer), step))]
    texts += [tokenizer.decode(original.encode(request)) for request in requests]
    texts = [text for text in dict.fromkeys(texts) if text and "�" not in text]  # halves of characters are no text
    different = []
    with _client(served) as client:
        for text in texts:
            asked = {"content": text, "add_special": False, "parse_special": True}
            if _post(client, "/tokenize", asked)["tokens"] != tokenizer(text, add_special_tokens=False).input_ids:
                different.append(text)
    return {"texts": len(texts), "different": different}


#: Token ids of a prompt and its reply, and where the compared positions are: a distribution is that after `ids[:end]`.
Place = tuple[list[int], list[int]]


def _places(original: TransformersModel, requests: Sequence[ChatRequest], replies: Sequence[Completion]) -> list[Place]:
    """Of each request, the end of the prompt and some tokens of the original's own reply."""
    places = []
    for request, reply in zip(requests, replies, strict=True):
        prompt = original.encode(request)
        said = original.tokenizer(reply.text, add_special_tokens=False).input_ids
        cuts = {round(k * len(said) / POSITIONS) for k in range(POSITIONS)}
        places.append((prompt + said, [len(prompt) + cut for cut in sorted(cuts)]))
    return places


def _llama_cpp_top(served: GGUFModel, ids: list[int], letter: int) -> dict[int, float]:
    """Log-probabilities of the likeliest next tokens, by id; those are the model's own, before any sampling.

    `letter` is what it is made to say: after half of a character the server holds the probabilities back.
    """
    asked: dict[str, Any] = {"prompt": ids, "n_predict": 1, "n_probs": ASKED, "temperature": 0, "cache_prompt": True}
    asked["logit_bias"] = [[letter, 1e4]]
    with _client(served) as client:
        answer = _post(client, "/completion", asked)
    return {entry["id"]: entry["logprob"] for entry in answer["completion_probabilities"][0]["top_logprobs"]}


def _transformers_tops(original: TransformersModel, place: Place) -> list[dict[int, float]]:
    import torch

    ids, ends = place
    seen, kept = ids[: ends[-1]], ends[-1] - ends[0] + 1
    with torch.inference_mode():
        inputs = torch.tensor([seen], device=original.device)
        logits = original.model(input_ids=inputs, logits_to_keep=kept).logits[0]  # (kept, vocabulary)
        rows = torch.log_softmax(logits[[end - ends[0] for end in ends]].float(), -1)
        values, indices = rows.topk(min(TOP, rows.shape[-1]))
    return [dict(zip(i, v, strict=True)) for i, v in zip(indices.tolist(), values.tolist(), strict=True)]


def _compare(
    original: TransformersModel,
    places: Sequence[Place],
    found: Sequence[Mapping[int, float]],
    expected: Sequence[Completion],
    theirs: Sequence[Completion],
) -> dict[str, Any]:
    tops = [top for place in places for top in _transformers_tops(original, place)]
    divergences = [coarse_kl(p, q) for p, q in zip(tops, found, strict=True)]
    likely = [largest_difference(p, q) for p, q in zip(tops, found, strict=True)]
    same = [max(p, key=p.__getitem__) == max(q, key=q.__getitem__) for p, q in zip(tops, found, strict=True)]
    parted = [
        first_divergence(
            original.tokenizer(ours.text, add_special_tokens=False).input_ids,
            original.tokenizer(other.text, add_special_tokens=False).input_ids,
        )
        for ours, other in zip(expected, theirs, strict=True)
    ]
    apart = sorted(position for position in parted if position is not None)
    return {
        "positions": len(tops),
        "kl_mean": fmean(divergences),
        "kl_max": max(divergences),
        "largest_logprob_difference": max(likely),
        "same_likeliest_token": fmean(same),
        "replies_equal": 1 - len(apart) / len(parted),
        "first_divergence_tokens": apart,
    }


def coarse_kl(p: Mapping[int, float], q: Mapping[int, float]) -> float:
    """KL(p‖q) in nats of the log-probabilities of some tokens, those that p does not name being one outcome.

    At most the KL of the whole distributions: merging outcomes only lessens it (the data-processing inequality), and a
    token that q does not name is given the most that q can have left for it.
    """
    unnamed = min(*q.values(), _log(1 - sum(map(math.exp, q.values()))))
    total = sum(math.exp(v) * (v - q.get(token, unnamed)) for token, v in p.items())
    rest_p = 1 - sum(map(math.exp, p.values()))
    rest_q = 1 - sum(math.exp(q[token]) for token in p.keys() & q.keys())
    if rest_p > 1e-6:  # below it is rounding
        total += rest_p * (math.log(rest_p) - _log(rest_q))
    return max(total, 0.0)


def _log(probability: float) -> float:
    """Of what is left of 1, which rounding may bring to 0 or below."""
    return math.log(max(probability, 1e-9))


def largest_difference(p: Mapping[int, float], q: Mapping[int, float], least: float = 0.01) -> float:
    """max |log p − log q| over the tokens to which p gives at least the probability `least`.

    A token that q does not name counts with the smallest log-probability that q names: at least that is the difference.
    """
    lowest = min(q.values())
    return max((abs(v - q.get(token, lowest)) for token, v in p.items() if v >= math.log(least)), default=0.0)


def first_divergence(a: Sequence[int], b: Sequence[int]) -> int | None:
    """Index of the first token in which two replies differ; None where they are equal."""
    for index, (ours, other) in enumerate(zip(a, b, strict=False)):
        if ours != other:
            return index
    return None if len(a) == len(b) else min(len(a), len(b))


def _round(original: TransformersModel, precision: Precision) -> None:
    """The weights as the file holds them, in place."""
    import torch

    from distiller.training.rounding import BLOCK, ROUNDINGS

    model = original.model
    ends = {id(m.weight) for m in (model.get_input_embeddings(), model.get_output_embeddings()) if m is not None}
    with torch.no_grad():
        for weights in model.parameters():
            if weights.ndim < 2:
                continue
            quant = precision.embedding if id(weights) in ends else precision.matrices
            if quant == "f16" or weights.shape[-1] % BLOCK:
                weights.copy_(weights.half().float())
            else:
                weights.copy_(ROUNDINGS[quant](weights))


def _client(served: GGUFModel) -> httpx.Client:
    import httpx

    return httpx.Client(base_url=served.address, trust_env=False, timeout=600)


def _post(client: httpx.Client, path: str, asked: dict[str, Any]) -> dict[str, Any]:
    answer = client.post(path, json=asked)
    if answer.is_error:
        raise ModelError(f"llama.cpp refuses {path}: {answer.text[:200]}")
    return answer.json()
