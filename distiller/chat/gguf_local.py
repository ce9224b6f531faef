"""Local models on a CPU through llama.cpp: `gguf:FILE`, and what is exported to such a file.

llama.cpp's own server runs inside this process (the package xllamacpp): it batches the requests that are
under way token by token, and keeps what it has read of a conversation for the next turn. Chosen by
measurement over openvino-genai, which reads the same files: see docs/engine.md. Times are stamped here,
when a piece of text arrives.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import os
import shutil
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from distiller.chat.base import ChatModel, ChatRequest
from distiller.errors import ModelError, RefusedRequestError
from distiller.schema import Completion, text_hash

#: Requests decoded together; more wait. Past four, two cores gain nothing and each stream slows down.
SLOTS = 4
#: Tokens that one conversation may take, its reply included.
CONTEXT = 4096
#: Megabytes for the beginnings of conversations that lost their slot to another.
PROMPT_CACHE_MB = 128
_FINISH = {"stop": "stop", "length": "length"}


def available_cores() -> int:
    """Cores that this process may use: of its affinity, and of its container's quota (a Space's two of many)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cores, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no such file, or "max": no quota
        return cores


def preferred() -> bool:
    """Whether local models are best served here: without a GPU, and with the package that does it."""
    gpu = shutil.which("nvidia-smi") or Path("/dev/nvidiactl").exists() or Path("/dev/kfd").exists()
    return not gpu and importlib.util.find_spec("xllamacpp") is not None


class GGUFModel(ChatModel):
    max_batch = 1
    concurrency = SLOTS

    def __init__(self, name: str, file: Path) -> None:
        """Opens a GGUF file. Raises ModelError where there is none, or llama.cpp cannot read it."""
        try:
            with file.open("rb") as opened:
                magic = opened.read(4)
                opened.seek(0)
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
        except OSError as error:
            raise ModelError(f"{name}: {file} cannot be read ({error.strerror}).") from None
        if magic != b"GGUF":
            raise ModelError(f"{name}: {file} is no GGUF file. Make one with: python -m distiller export RUN")
        self.name, self.identity = name, f"gguf:{digest[:16]}"
        self._server = start_server(name, file)
        facts = self._facts()
        self.parameters, self.weights_bytes = facts["n_params"], file.stat().st_size
        self._workers = ThreadPoolExecutor(SLOTS, thread_name_prefix="llama.cpp")

    @property
    def address(self) -> str:
        """Where llama.cpp's server listens on this machine; its other functions are asked there."""
        return str(self._server.listening_address)

    def _facts(self) -> dict[str, Any]:
        import httpx

        with httpx.Client(base_url=self.address, trust_env=False, timeout=30) as client:
            return client.get("/v1/models").json()["data"][0]["meta"]

    async def complete(self, requests: Sequence[ChatRequest]) -> list[Completion]:
        loop = asyncio.get_running_loop()
        calls = [loop.run_in_executor(self._workers, self._answer, request) for request in requests]
        return list(await asyncio.gather(*calls))

    async def stream(self, request: ChatRequest) -> AsyncGenerator[str | Completion, None]:
        loop, queue = asyncio.get_running_loop(), asyncio.Queue[str | Completion | BaseException]()
        stopped = threading.Event()
        sent = time.perf_counter()

        def put(item: str | Completion | BaseException) -> None:
            loop.call_soon_threadsafe(queue.put_nowait, item)

        def work() -> None:
            try:
                put(self._answer(request, sent, put, stopped))
            except BaseException as error:
                put(error)

        task = loop.run_in_executor(self._workers, work)
        try:
            while True:
                item = await queue.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
                if isinstance(item, Completion):
                    return
        finally:
            stopped.set()
            await task

    def _answer(
        self,
        request: ChatRequest,
        sent: float | None = None,
        on_text: Callable[[str], None] | None = None,
        stopped: threading.Event | None = None,
    ) -> Completion:
        sent = time.perf_counter() if sent is None else sent
        reply = _Reply(sent, on_text, stopped)
        if stopped is None or not stopped.is_set():  # it may have waited for a slot until nobody wanted it
            self._server.handle_chat_completions(_arguments(request), reply.take)
        if reply.error is not None:
            raise RefusedRequestError(f"{self.name}: {_in_words(reply.error, request)}")
        return reply.completion(request.top_logprobs)

    async def aclose(self) -> None:
        self._workers.shutdown(wait=True)
        del self._server


def start_server(name: str, file: Path, *, host: str = "", port: int = 0, alias: str = "", key: str = "") -> Any:
    """llama.cpp's server for a GGUF file: at a free port of this machine alone, unless `host` and `port` say otherwise. It
    ends when it is let go of. Clients call the model `alias`, and send `key` along where there is one.

    Raises ModelError where the file cannot be loaded.
    """
    # OpenMP reads this when it is loaded. Its threads wait for one another by spinning; two processes that do so for
    # long on the same cores take each other's turns, and both become fifteen times slower.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    try:
        import xllamacpp
    except ImportError:
        raise ModelError(
            f"{name}: GGUF files are run by the package xllamacpp, which is not installed. Install it with "
            "`pip install xllamacpp`, or name the model's folder: hf:FOLDER."
        ) from None
    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    # A cache a slot: in a shared one each stream would look through the tokens of all.
    params.n_parallel, params.n_ctx, params.kv_unified = SLOTS, SLOTS * CONTEXT, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = available_cores()
    params.cache_ram_mib = PROMPT_CACHE_MB
    params.verbosity = -1
    params.port = port
    if host:
        params.hostnames = [host]
    if alias:
        params.model_alias = {alias}
    if key:
        params.api_keys = [key]
    try:
        return xllamacpp.Server(params)
    except Exception as error:  # the binding raises bare exceptions
        raise ModelError(
            f"{name}: llama.cpp cannot load {file} ({str(error).strip() or 'no reason given'}). The file may be "
            "damaged, or of an architecture that this version does not know."
        ) from None


def _arguments(request: ChatRequest) -> dict[str, Any]:
    sampling = request.sampling
    arguments: dict[str, Any] = {
        "messages": [{"role": message.role, "content": message.content} for message in request.messages],
        "max_tokens": sampling.max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
        "cache_prompt": True,
    }
    if sampling.temperature > 0:
        # A seed of the request's own: a draw does not depend on what else is under way.
        seed = int(text_hash(request.model_dump_json())[:8], 16)
        arguments |= {"samplers": ["temperature", "top_p"], "temperature": sampling.temperature}
        arguments |= {"top_p": sampling.top_p, "seed": seed}
    else:
        arguments |= {"samplers": ["top_k"], "top_k": 1, "temperature": 0}
    if request.top_logprobs:
        arguments |= {"logprobs": True, "top_logprobs": request.top_logprobs}
    return arguments


class _Reply:
    """One reply as it arrives, a chunk of the OpenAI protocol at a time."""

    def __init__(self, sent: float, on_text: Callable[[str], None] | None, stopped: threading.Event | None) -> None:
        self._sent, self._on_text, self._stopped = sent, on_text, stopped
        self._pieces: list[str] = []
        self._ttft_s: float | None = None
        self._finish: str | None = None
        self._usage: dict[str, Any] = {}
        self._top: list[list[tuple[str, float]]] = []
        self.error: dict[str, Any] | None = None
        self._ended = sent

    def take(self, chunk: dict[str, Any]) -> bool:
        """True stops the model."""
        self._ended = time.perf_counter()
        if "error" in chunk:
            self.error = chunk["error"]
            return True
        for choice in chunk["choices"]:
            self._finish = choice["finish_reason"] or self._finish
            for entry in (choice.get("logprobs") or {}).get("content") or []:
                self._top.append([(top["token"], top["logprob"]) for top in entry["top_logprobs"]])
            if text := choice["delta"].get("content"):
                self._pieces.append(text)
                if self._ttft_s is None and text.strip():
                    self._ttft_s = self._ended - self._sent
                if self._on_text is not None:
                    self._on_text(text)
        self._usage = chunk.get("usage") or self._usage
        return self._stopped is not None and self._stopped.is_set()

    def completion(self, top_logprobs: int) -> Completion:
        latency = self._ended - self._sent
        tokens = self._usage.get("completion_tokens")
        if tokens and self._finish == "stop":
            tokens -= 1  # the end mark is counted, and is no part of the reply
        return Completion(
            text="".join(self._pieces).strip(),
            finish_reason=_FINISH.get(self._finish or "", "other"),
            prompt_tokens=self._usage.get("prompt_tokens"),
            completion_tokens=tokens,
            ttft_s=self._ttft_s if self._ttft_s is not None else latency,
            latency_s=latency,
            top_logprobs=self._top if top_logprobs else None,
        )


def _in_words(error: dict[str, Any], request: ChatRequest) -> str:
    if error.get("type") == "exceed_context_size_error":
        return (
            f"the prompt has {error['n_prompt_tokens']} tokens; the model holds {error['n_ctx']} and the reply may "
            f"take {request.sampling.max_tokens}. Shorten the conversation or lower max_tokens."
        )
    return str(error.get("message", error))
