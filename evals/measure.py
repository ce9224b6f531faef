"""Times and memory of one contestant, in a process of its own: `python -m evals.measure` reads a request
from standard input and prints the figures as JSON.

First a few turns one at a time, streaming: TTFT, end-to-end, tokens/s, processor seconds. What a
contestant needs beside its model (the teacher's retrieval) is part of its time and memory. Then many
turns at once, for the replies an hour. Warm-up is not counted.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from distiller.chat import ChatModel, ChatRequest, OpenOptions, Sampling, open_model
from distiller.errors import DistillerError
from distiller.job import DistillationJob
from distiller.schema import Completion, Conversation, history, read_conversations
from evals.contestants import Contestant

AT_ONCE = 16


def measure(
    contestant: Contestant,
    data_file: Path,
    turns: int,
    max_tokens: int,
    options: OpenOptions,
    system_prompt: str | None = None,
) -> dict[str, Any]:
    """Figures of the contestant from a fresh process. Raises DistillerError with its words when it fails."""
    name, job = contestant.name, contestant.job
    request: dict[str, Any] = {"name": name, "role": contestant.role}
    request |= {"job": job.model_dump(mode="json") if job else None}
    request |= {"data": str(data_file), "turns": turns, "max_tokens": max_tokens}
    request |= {"options": options.__dict__, "system_prompt": system_prompt}
    return in_fresh_process("evals.measure", request, f"Measuring {name}")


def in_fresh_process(module: str, request: dict[str, Any], what: str) -> dict[str, Any]:
    """What `python -m module` answers to `request`, by `answer_parent`. Raises its DistillerError, in its words."""
    done = subprocess.run(
        [sys.executable, "-m", module], input=json.dumps(request), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"its process ended with code {done.returncode}, without a word"]
        kinds = {kind.exit_code: kind for kind in DistillerError.__subclasses__()}
        raise kinds.get(done.returncode, DistillerError)(f"{what} failed: {lines[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def answer_parent(measured: Callable[[dict[str, Any]], Coroutine[Any, Any, dict[str, Any]]]) -> None:
    """The other end of `in_fresh_process`."""
    try:
        print(json.dumps(asyncio.run(measured(json.loads(sys.stdin.read())))))
    except DistillerError as error:
        print(error, file=sys.stderr)
        raise SystemExit(error.exit_code) from None


def timed_turns(data: Sequence[Conversation], count: int) -> list[tuple[str, int]]:
    """`count` turns spread over the data: (conversation, turn)."""
    every = [(c.id, t.index) for c in data for t in c.turns()]
    step = max(1, len(every) // max(1, count))
    return every[::step][:count]


async def _measure(request: dict[str, Any]) -> dict[str, Any]:
    data = read_conversations(Path(request["data"]))
    job = DistillationJob.model_validate(request["job"]) if request["job"] else None
    contestant = Contestant(request["name"], request["role"], job)
    model = open_model(contestant.name, OpenOptions(**request["options"]))
    prompting = contestant.prompting(request["system_prompt"])
    sampling = Sampling(max_tokens=request["max_tokens"])
    conversations = {c.id: c for c in data}

    def request_of(place: tuple[str, int], earlier: Sequence[str]) -> ChatRequest:
        """The request of one turn. `earlier`: the policy text of the turns before, known from then."""
        conversation, turn = conversations[place[0]], place[1]
        turns = conversation.turns()
        replies = [t.reference or "" for t in turns]
        policy = [*earlier, *prompting.policy_texts([history(turns, replies, turn, None)], [place[0]])]
        messages = prompting.messages(turns, replies, turn, policy, conversation.system)
        return ChatRequest(messages=messages, sampling=sampling)

    known = dict(zip((c.id for c in data), prompting.reference_policies(data), strict=True))

    places = timed_turns(data, request["turns"])
    warm_up = request_of(places[0], known[places[0][0]][: places[0][1]]).model_copy(
        update={"sampling": Sampling(max_tokens=8)}
    )
    await _stream(model, warm_up)
    singles = []
    for place in places:
        sent, cpu = time.perf_counter(), time.process_time()
        one = request_of(place, known[place[0]][: place[1]])
        before_model = time.perf_counter() - sent
        completion = await _stream(model, one)
        singles.append((before_model, completion, time.perf_counter() - sent, time.process_time() - cpu))
    peak = peak_memory_bytes()
    many = timed_turns(data, AT_ONCE)
    sent = time.perf_counter()
    await _all_at_once(model, [request_of(place, known[place[0]][: place[1]]) for place in many])
    busy = time.perf_counter() - sent
    local = model.parameters is not None
    tokens = sum(c.completion_tokens or 0 for _, c, _, _ in singles)
    prompt_tokens = [c.prompt_tokens for _, c, _, _ in singles if c.prompt_tokens is not None]
    return {
        "ttft_s": [before + (c.ttft_s or 0.0) for before, c, _, _ in singles],
        "latency_s": [latency for _, _, latency, _ in singles],
        "tokens_per_s": tokens / sum(latency for _, _, latency, _ in singles),
        "cpu_s_per_reply": sum(cpu for *_, cpu in singles) / len(singles) if local else None,
        "mean_prompt_tokens": sum(prompt_tokens) / len(prompt_tokens) if prompt_tokens else None,
        "mean_completion_tokens": tokens / len(singles),
        "at_once": len(many),
        "replies_per_hour": len(many) / busy * 3600,
        "peak_memory_mb": peak / 1e6 if local else None,
        "weights_mb": model.weights_bytes / 1e6 if model.weights_bytes else None,
        "parameters": model.parameters,
        "identity": model.identity,
        "places": places,
        "texts": [c.text for _, c, _, _ in singles],
    }


async def _stream(model: ChatModel, request: ChatRequest) -> Completion:
    completion: Completion | None = None
    async for item in model.stream(request):
        if isinstance(item, Completion):
            completion = item
    if completion is None:
        raise DistillerError(f"{model.name}: the stream ended without a reply.")
    return completion


async def _all_at_once(model: ChatModel, requests: Sequence[ChatRequest]) -> None:
    size = model.max_batch
    ordered = sorted(requests, key=model.length)
    parts = [ordered[k : k + size] for k in range(0, len(ordered), size)]
    slots = asyncio.Semaphore(model.concurrency)

    async def run(part: Sequence[ChatRequest]) -> None:
        async with slots:
            await model.complete(part)

    await asyncio.gather(*(run(part) for part in parts))


def peak_memory_bytes() -> int:
    """Of this process alone. Linux carries ru_maxrss over from the parent, so its own high-water mark is read."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def machine() -> dict[str, Any]:
    """What times were taken on, and how busy it was."""
    import psutil

    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    answer_parent(_measure)
