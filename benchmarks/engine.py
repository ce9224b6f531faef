"""The engine on a CPU: what our seam costs over llama.cpp's own API, and what it gains over transformers.

The default teacher answers the same turns of the support desk, policy lines beside them, one at a time: through
`distiller.chat`, through a bare loop over llama.cpp's server on the same file, and through transformers in bfloat16.
The first two take turns with each round, so that a slower minute of the machine slows both.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import Figure, write_result
from distiller.chat import ChatModel, ChatRequest, OpenOptions, Sampling, open_model
from distiller.chat.bundled import chat_model_folder
from distiller.chat.gguf_local import CONTEXT, PROMPT_CACHE_MB, SLOTS, available_cores
from distiller.export.served import served_file
from distiller.job import load_job
from distiller.prompting import student_prompting
from distiller.schema import read_conversations

ROOT = Path(__file__).parents[1]
TEACHER = "fernhill-support-135m"
#: Turns are asked once: what an engine keeps of a prompt would answer for it.
ROUNDS, TURNS = 7, 12
SLOW_ROUNDS, SLOW_TURNS = 3, 6


def requests(count: int) -> list[ChatRequest]:
    """The first turns of `count` test conversations, as the teacher gets them in service."""
    prompting = student_prompting(load_job(ROOT / "configs" / "quickstart.yaml", check_files=False))
    conversations = read_conversations(ROOT / "datasets" / "helpdesk" / "test.jsonl")[:count]
    policies = prompting.reference_policies(conversations)
    return [
        ChatRequest(messages=prompting.messages(c.turns(), [], 0, policy, c.system), sampling=Sampling(max_tokens=64))
        for c, policy in zip(conversations, policies, strict=True)
    ]


def through_the_seam(model: ChatModel) -> Callable[[ChatRequest], int]:
    def answer(request: ChatRequest) -> int:
        [completion] = asyncio.run(model.complete([request]))
        return completion.completion_tokens or 0

    return answer


def bare(file: Path) -> Callable[[ChatRequest], int]:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.n_parallel, params.n_ctx, params.cache_ram_mib, params.verbosity = (
        SLOTS,
        SLOTS * CONTEXT,
        PROMPT_CACHE_MB,
        -1,
    )
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = available_cores()
    server = xllamacpp.Server(params)

    def answer(request: ChatRequest) -> int:
        asked: dict[str, Any] = {"messages": [m.model_dump(include={"role", "content"}) for m in request.messages]}
        asked |= {"max_tokens": request.sampling.max_tokens, "samplers": ["top_k"], "top_k": 1}
        reply = server.handle_chat_completions(asked)
        return reply["usage"]["completion_tokens"] - (reply["choices"][0]["finish_reason"] == "stop")

    return answer


def speed(answer: Callable[[ChatRequest], int], asked: Sequence[ChatRequest]) -> float:
    """Tokens a second, reading the prompts included."""
    began = time.perf_counter()
    return sum(map(answer, asked)) / (time.perf_counter() - began)


def main() -> None:
    asked = iter(requests(1 + ROUNDS * TURNS + SLOW_ROUNDS * SLOW_TURNS))
    warm_up = next(asked)
    file = served_file(Path(chat_model_folder(TEACHER)))
    assert file is not None
    seam, own = through_the_seam(open_model(f"bundled:{TEACHER}")), bare(file)
    transformers = through_the_seam(open_model(f"bundled:{TEACHER}", OpenOptions(precision="bfloat16")))
    for answer in (seam, own, transformers):
        answer(warm_up)
    speeds: dict[str, list[float]] = {"seam": [], "bare": [], "transformers": []}
    for k in range(ROUNDS):
        turns = list(itertools.islice(asked, TURNS))
        for name, answer in [("seam", seam), ("bare", own)][:: 1 if k % 2 else -1]:
            speeds[name].append(speed(answer, turns))
    shares = [a / b for a, b in zip(speeds["seam"], speeds["bare"], strict=True)]
    times = []
    for _ in range(SLOW_ROUNDS):
        turns = list(itertools.islice(asked, SLOW_TURNS))
        speeds["transformers"].append(speed(transformers, turns))
        times.append(speed(seam, turns) / speeds["transformers"][-1])
    for name, values in speeds.items():
        print(f"{name}: {statistics.median(values):.1f} tokens/s")
    figures = {
        "share_of_engines_own_speed": Figure(statistics.median(shares), "of 1", 0.95, shares, higher_is_better=True),
        "times_transformers_bf16": Figure(statistics.median(times), "times", 3.0, times, higher_is_better=True),
    }
    write_result("engine", "python -m benchmarks.engine", figures)


if __name__ == "__main__":
    main()
