"""llama.cpp behind the seam: the same promises as transformers behind it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from distiller.chat import ChatRequest, OpenOptions, Sampling, open_model
from distiller.chat.gguf_local import SLOTS, GGUFModel, _arguments, available_cores
from distiller.chat.transformers_local import TransformersModel
from distiller.errors import ModelError, RequestError
from distiller.export.gguf_file import write_gguf
from distiller.schema import Completion
from tests.tiny import QUERIES, user


@pytest.fixture(scope="module")
def file(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(tiny_model, target, "q8_0")
    return target


@pytest.fixture(scope="module")
def model(file: Path) -> GGUFModel:
    opened = open_model(f"gguf:{file}")
    assert isinstance(opened, GGUFModel)
    return opened


def request(text: str, top_logprobs: int = 0, **sampling: float) -> ChatRequest:
    asked = Sampling.model_validate({"max_tokens": 16} | sampling)
    return ChatRequest(messages=user(text), sampling=asked, top_logprobs=top_logprobs)


def complete(model: GGUFModel, *requests: ChatRequest) -> list[Completion]:
    return asyncio.run(model.complete(requests))


def drain(model: GGUFModel, asked: ChatRequest) -> tuple[list[str], Completion]:
    async def main() -> list[str | Completion]:
        return [item async for item in model.stream(asked)]

    *pieces, completion = asyncio.run(main())
    assert isinstance(completion, Completion)
    return [str(piece) for piece in pieces], completion


def test_more_requests_than_slots_are_all_answered_in_order(model: GGUFModel) -> None:
    many = [request(f"{QUERIES[k % len(QUERIES)]} {k}", max_tokens=4 + k) for k in range(3 * SLOTS)]
    replies = complete(model, *many)
    for asked, reply in zip(many, replies, strict=True):
        assert reply.completion_tokens is not None
        assert reply.completion_tokens <= asked.sampling.max_tokens
        assert reply.finish_reason == ("length" if reply.completion_tokens == asked.sampling.max_tokens else "stop")
        assert reply.ttft_s is not None
        assert reply.latency_s is not None
        assert 0 < reply.ttft_s <= reply.latency_s


def test_stream_pieces_join_to_the_text(model: GGUFModel) -> None:
    pieces, completion = drain(model, request(QUERIES[0], max_tokens=24))
    assert len(pieces) > 3
    assert "".join(pieces).strip() == completion.text
    assert completion.text == complete(model, request(QUERIES[0], max_tokens=24))[0].text


def test_closing_a_stream_stops_the_model(model: GGUFModel) -> None:
    async def main() -> float:
        stream = model.stream(request("a long story", max_tokens=3000))
        await anext(stream)
        began = time.perf_counter()
        await stream.aclose()
        return time.perf_counter() - began

    assert asyncio.run(main()) < 1.0


def test_sampling_is_drawn_by_the_seed(model: GGUFModel) -> None:
    asked = [request(QUERIES[1], temperature=1.0, seed=seed) for seed in (1, 1, 2)]
    first, again, other = (complete(model, one)[0].text for one in asked)
    assert first == again != other


def test_a_narrow_nucleus_is_greedy(model: GGUFModel) -> None:
    greedy, narrow = request(QUERIES[2]), request(QUERIES[2], temperature=0.8, top_p=1e-6)
    assert complete(model, greedy)[0].text == complete(model, narrow)[0].text


def test_the_next_turn_is_read_from_where_the_last_one_ended(model: GGUFModel) -> None:
    """By the server's own count of what it read and what it still knew."""
    asked: dict[str, Any] = _arguments(request("another " * 900, max_tokens=2)) | {"stream": False}
    del asked["stream_options"]
    with httpx.Client(base_url=model.address, trust_env=False, timeout=60) as client:
        first, second = (client.post("/v1/chat/completions", json=asked).json()["timings"] for _ in range(2))
    assert first["prompt_n"] > 900
    assert second["cache_n"] > 900
    assert second["prompt_n"] < 10


def test_a_prompt_longer_than_the_context_is_refused(model: GGUFModel) -> None:
    with pytest.raises(RequestError, match=r"the prompt has \d+ tokens; the model holds 1024 .* 16\. Shorten"):
        complete(model, request("word " * 1100))
    assert complete(model, request("and on it goes"))[0].completion_tokens


def test_what_cannot_be_opened_is_said_in_words(tmp_path: Path, file: Path) -> None:
    with pytest.raises(ModelError, match=r"none\.gguf cannot be read"):
        open_model(f"gguf:{tmp_path / 'none.gguf'}")
    text = tmp_path / "text.gguf"
    text.write_text("not a model")
    with pytest.raises(ModelError, match="is no GGUF file"):
        open_model(f"gguf:{text}")
    torn = tmp_path / "torn.gguf"
    torn.write_bytes(file.read_bytes()[:100_000])
    with pytest.raises(ModelError, match=r"llama\.cpp cannot load"):
        open_model(f"gguf:{torn}")


def test_memory_and_threads_are_given_back(file: Path) -> None:
    script = f"""
import asyncio, psutil, threading
from pathlib import Path
from distiller.chat.gguf_local import GGUFModel
def used():
    return psutil.Process().memory_info().rss / 1e6
sizes = []
for _ in range(8):
    model = GGUFModel("gguf:x", Path({str(file)!r}))
    asyncio.run(model.aclose())
    sizes.append(used())
assert sizes[-1] < sizes[0] + 30, sizes
assert threading.active_count() == 1
"""
    # glibc keeps freed memory for later by rules that learn from the program; fixed, what is freed is given back.
    fixed = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    subprocess.run([sys.executable, "-c", script], check=True, env=os.environ | fixed)


def test_available_cores_are_at_least_one() -> None:
    assert available_cores() >= 1


def test_models_made_here_are_served_by_llama_cpp_unless_a_precision_is_asked_for(bundled_folder: Path) -> None:
    from transformers import AutoTokenizer

    name = "bundled:smollm2-135m-instruct"
    served = open_model(name)
    assert isinstance(served, GGUFModel)
    assert served.name == name
    assert served.parameters == 134_515_008
    assert served.weights_bytes is not None
    assert 140e6 < served.weights_bytes < 150e6
    [reply] = complete(served, request("Hello!", max_tokens=60))
    assert reply.finish_reason == "stop"
    assert reply.text == "Hello!"
    # The end mark is no token of the reply.
    tokenizer = AutoTokenizer.from_pretrained(bundled_folder)
    assert reply.completion_tokens == len(tokenizer(reply.text, add_special_tokens=False).input_ids)
    assert isinstance(open_model(name, OpenOptions(precision="bfloat16")), TransformersModel)
