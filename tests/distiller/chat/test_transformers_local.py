"""Local models: what a reply is does not depend on the company it was written in."""

from __future__ import annotations

import asyncio
import json
import math
import shutil
from pathlib import Path

import pytest

from distiller.chat import ChatRequest, OpenOptions, Sampling, open_model
from distiller.chat.transformers_local import TransformersModel, render_messages, source_identity
from distiller.errors import ModelError, RequestError
from distiller.schema import Completion, Message
from tests.tiny import QUERIES, user

GREEDY = Sampling(max_tokens=16)


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> TransformersModel:
    opened = open_model(f"hf:{tiny_model}", OpenOptions(precision="float32"))
    assert isinstance(opened, TransformersModel)
    return opened


def request(text: str, sampling: Sampling = GREEDY, **more: int) -> ChatRequest:
    return ChatRequest(messages=user(text), sampling=sampling, **more)


def complete(model: TransformersModel, *requests: ChatRequest) -> list[Completion]:
    return asyncio.run(model.complete(requests))


def drain(model: TransformersModel, asked: ChatRequest) -> tuple[list[str], Completion]:
    async def main() -> list[str | Completion]:
        return [item async for item in model.stream(asked)]

    *pieces, completion = asyncio.run(main())
    assert isinstance(completion, Completion)
    return [str(piece) for piece in pieces], completion


def with_stops(source: Path, folder: Path, stops: list[int]) -> Path:
    shutil.copytree(source, folder)
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": stops}))
    return folder


def test_greedy_replies_do_not_depend_on_the_batch(model: TransformersModel, tiny_model: Path, tmp_path: Path) -> None:
    """Twelve prompts of different lengths that end at different times: together, and each alone."""
    requests = [request(text * (1 + k % 3)) for k, text in enumerate(QUERIES)]
    firsts = complete(model, *requests)
    # A stop token that some of the replies hold early and others late or never.
    words = [model.tokenizer(c.text, add_special_tokens=False).input_ids for c in firsts]
    stop = words[0][5]
    stopped = open_model(f"hf:{with_stops(tiny_model, tmp_path / 'm', [2, stop])}", OpenOptions(precision="float32"))
    assert isinstance(stopped, TransformersModel)
    together = complete(stopped, *requests)
    alone = [complete(stopped, one)[0] for one in requests]
    timeless = {"ttft_s", "latency_s"}
    assert [c.model_dump(exclude=timeless) for c in together] == [c.model_dump(exclude=timeless) for c in alone]
    assert len({c.text for c in together}) > 6
    assert {c.finish_reason for c in together} == {"stop", "length"}


def test_a_stop_token_ends_the_reply_and_is_no_part_of_it(
    model: TransformersModel, tiny_model: Path, tmp_path: Path
) -> None:
    import torch

    (whole,) = complete(model, request("Hi", top_logprobs=1))
    assert whole.top_logprobs is not None
    prompt = torch.tensor([model.encode(request("Hi"))])
    output = model.model.generate(
        input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=16, do_sample=False
    )
    ids = output[0, prompt.shape[1] :].tolist()
    place = next(k for k, i in enumerate(ids) if k > 2 and i not in ids[:k])
    chosen = ids[place]
    opened = open_model(f"hf:{with_stops(tiny_model, tmp_path / 'm', [2, chosen])}", OpenOptions(precision="float32"))
    assert isinstance(opened, TransformersModel)
    (cut,) = complete(opened, request("Hi", top_logprobs=1))
    assert cut.finish_reason == "stop"
    assert cut.completion_tokens == place
    assert cut.text == str(model.tokenizer.decode(ids[:place])).strip()
    assert cut.top_logprobs == whole.top_logprobs[:place]


def test_max_tokens_ends_the_reply(model: TransformersModel) -> None:
    (completion,) = complete(model, request("Hi", Sampling(max_tokens=5)))
    assert (completion.finish_reason, completion.completion_tokens) == ("length", 5)
    assert completion.prompt_tokens == len(model.encode(request("Hi")))
    assert completion.ttft_s is not None
    assert completion.latency_s is not None
    assert 0 < completion.ttft_s <= completion.latency_s


@pytest.mark.parametrize("seed", range(12))
def test_stream_pieces_join_to_the_text(model: TransformersModel, seed: int) -> None:
    """Drawn from a random model the text is full of torn characters: the pieces must agree all the same."""
    asked = request("Hi", Sampling(temperature=1.5, max_tokens=12 + seed, seed=seed))
    pieces, completion = drain(model, asked)
    assert len(pieces) > 3
    assert "".join(pieces).strip() == completion.text
    assert complete(model, asked)[0].text == completion.text


def test_closing_a_stream_stops_the_model(model: TransformersModel) -> None:
    steps: list[int] = []
    hook = model.model.register_forward_hook(lambda *_: steps.append(1))

    async def main() -> int:
        stream = model.stream(request("Hi", Sampling(max_tokens=600)))
        await anext(stream)
        await stream.aclose()
        return len(steps)

    try:
        at_close = asyncio.run(main())
    finally:
        hook.remove()
    assert at_close < 400
    assert len(steps) == at_close
    assert complete(model, request("Hi", Sampling(max_tokens=1)))  # and the model is free again


def test_sampling_is_reproducible_and_independent_of_the_batch(model: TransformersModel) -> None:
    warm = Sampling(temperature=1.0, top_p=0.9, max_tokens=12, seed=3)
    requests = [request(text, warm) for text in QUERIES[:4]]
    together = [c.text for c in complete(model, *requests)]
    assert [complete(model, one)[0].text for one in requests] == together
    other = [request(text, warm.model_copy(update={"seed": 4})) for text in QUERIES[:4]]
    assert all(a != b.text for a, b in zip(together, complete(model, *other), strict=True))


def test_a_narrow_nucleus_is_greedy(model: TransformersModel) -> None:
    (greedy,) = complete(model, request("Hi"))
    (narrow,) = complete(model, request("Hi", Sampling(temperature=1.0, top_p=1e-9, max_tokens=16)))
    assert narrow.text == greedy.text


def test_top_logprobs_are_best_first_and_the_first_is_chosen(model: TransformersModel) -> None:
    (completion,) = complete(model, request("Hi", top_logprobs=4))
    assert completion.top_logprobs is not None
    assert len(completion.top_logprobs) == completion.completion_tokens == 16
    for entry in completion.top_logprobs:
        values = [value for _, value in entry]
        assert values == sorted(values, reverse=True)
        assert sum(map(math.exp, values)) < 1
    ascii_parts = [entry[0][0] for entry in completion.top_logprobs if entry[0][0].isascii()]
    assert ascii_parts
    assert all(part.strip() in completion.text for part in ascii_parts)
    assert complete(model, request("Hi"))[0].top_logprobs is None


def test_a_prompt_longer_than_the_context_is_refused(model: TransformersModel) -> None:
    with pytest.raises(RequestError, match=r"the model holds 1024 and the reply may take 16\. Shorten"):
        complete(model, request("word " * 1100))


def test_a_model_without_a_chat_template(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    shutil.copytree(tiny_model, folder, ignore=shutil.ignore_patterns("chat_template*"))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match="has no chat template; choose an instruction-tuned model"):
        complete(open_model(f"hf:{folder}"), request("Hi"))  # type: ignore[arg-type]


def test_a_template_that_refuses_the_system_role_gets_it_before_the_first_message(model: TransformersModel) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model.source)
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] not in ['user', 'assistant'] %}{{ raise_exception('no') }}{% endif %}"
        "<{{ m['role'] }}>{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    messages = [Message(role="system", content="S"), *user("A"), Message(role="tool", content="T")]
    assert render_messages(tokenizer, messages, add_generation_prompt=True) == "<user>S\n\nA\n\nT<assistant>"
    tokenizer.chat_template = "{{ raise_exception('never') }}"
    with pytest.raises(ModelError, match="refuses this conversation"):
        render_messages(tokenizer, messages, add_generation_prompt=True)


def test_the_identity_follows_the_weights(tiny_model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_model, copy)
    assert source_identity(str(copy)) == source_identity(str(tiny_model))
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert source_identity(str(copy)) != source_identity(str(tiny_model))
    assert source_identity("org/repo") == "org/repo"


def test_the_bundled_model_replies_as_transformers_own_generate_does(bundled_folder: Path) -> None:
    import torch

    opened = open_model("bundled:smollm2-135m-instruct", OpenOptions(precision="float32"))
    assert isinstance(opened, TransformersModel)
    asked = [request("What is the capital of France?", Sampling(max_tokens=8)), request("Hi", Sampling(max_tokens=3))]
    replies = complete(opened, *asked)
    for one, reply in zip(asked, replies, strict=True):
        ids = torch.tensor([opened.encode(one)])
        output = opened.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=one.sampling.max_tokens,
            do_sample=False,
            pad_token_id=opened.tokenizer.pad_token_id,
        )
        text = str(opened.tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)).strip()
        assert reply.text == text
    assert "Paris" in replies[0].text
