"""Local models through transformers: `hf:`, `bundled:` and the models of a run.

Requests are answered in batches sorted by length, padded on the left. A row leaves the batch as soon
as its reply ends, so a batch does not pay for its longest reply with all its rows. Everything is
stamped here, in the producer: TTFT when a row's first text exists, latency when its last token does.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from distiller.chat.base import ChatModel, ChatRequest
from distiller.errors import ModelError, RefusedRequestError
from distiller.schema import Completion, Message, text_hash

if TYPE_CHECKING:
    import torch

#: What transformers raises for a folder or repository that holds no model, or a damaged one.
LOAD_ERRORS = (OSError, ValueError, KeyError, SafetensorError)


def cpu_has_bfloat16() -> bool:
    """Whether the processor computes in bfloat16 (elsewhere it is emulated, and slower than float32)."""
    import torch

    capabilities = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(capabilities and capabilities())


def choose_device() -> str:
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def choose_dtype(precision: str, device: str) -> torch.dtype:
    import torch

    if precision == "auto":
        precision = "bfloat16" if device == "cuda" or (device == "cpu" and cpu_has_bfloat16()) else "float32"
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]


def render_messages(tokenizer: Any, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
    """The text a model sees. Templates without a system role (Gemma's) get it before the first message."""
    plain = [{"role": message.role, "content": message.content} for message in messages]
    if not tokenizer.chat_template:
        raise ModelError("the tokenizer has no chat template; choose an instruction-tuned model.")
    try:
        return tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=add_generation_prompt)
    except Exception:  # Jinja's own error types: the template refused a role
        merged: list[dict[str, str]] = []
        for message in plain:
            role = "assistant" if message["role"] == "assistant" else "user"
            if merged and merged[-1]["role"] == role:
                merged[-1]["content"] += "\n\n" + message["content"]
            else:
                merged.append({"role": role, "content": message["content"]})
        try:
            return tokenizer.apply_chat_template(merged, tokenize=False, add_generation_prompt=add_generation_prompt)
        except Exception as error:
            raise ModelError(f"the model's chat template refuses this conversation: {error}") from None


class TransformersModel(ChatModel):
    def __init__(self, name: str, source: str, *, precision: str = "auto", max_batch: int = 32) -> None:
        """Opens a folder or Hub repository. Raises ModelError where there is no such model."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.name, self.source, self.max_batch = name, source, max_batch
        self.device = choose_device()
        dtype = choose_dtype(precision, self.device)
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(source)
            self.model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
            self.model.eval().to(self.device)
        except LOAD_ERRORS as error:
            first = str(error).strip().split("\n")[0]
            raise ModelError(f"{name}: cannot be loaded from {source}: {first}") from None
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        ends = self.model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        self.stop_ids = {i for i in [*ends, self.tokenizer.eos_token_id] if i is not None}
        self.context = getattr(self.model.config.get_text_config(), "max_position_embeddings", 2048)
        self.parameters = self.model.num_parameters()
        self.weights_bytes = _weights_bytes(Path(source))
        self.identity = f"transformers:{source_identity(source)}:{str(dtype).removeprefix('torch.')}"
        self._lock = threading.Lock()
        # transformers renames the argument: `past_key_values` before 5.20, `cache` from then on.
        accepted = inspect.signature(self.model.forward).parameters
        self._cache_argument = "cache" if "cache" in accepted else "past_key_values"

    def encode(self, request: ChatRequest) -> list[int]:
        text = render_messages(self.tokenizer, request.messages, add_generation_prompt=True)
        ids = self.tokenizer(text, add_special_tokens=False).input_ids
        room = self.context - request.sampling.max_tokens
        if len(ids) > room:
            raise RefusedRequestError(
                f"{self.name}: the prompt has {len(ids)} tokens; the model holds {self.context} and the reply may "
                f"take {request.sampling.max_tokens}. Shorten the conversation or lower max_tokens."
            )
        return ids

    def length(self, request: ChatRequest) -> int:
        return len(self.encode(request))

    async def complete(self, requests: Sequence[ChatRequest]) -> list[Completion]:
        return await asyncio.to_thread(self._generate, requests)

    async def stream(self, request: ChatRequest) -> AsyncGenerator[str | Completion, None]:
        loop, queue = asyncio.get_running_loop(), asyncio.Queue[str | Completion | BaseException]()
        stopped = threading.Event()

        def put(item: str | Completion | BaseException) -> None:
            loop.call_soon_threadsafe(queue.put_nowait, item)

        def work() -> None:
            try:
                put(self._generate([request], on_text=put, stopped=stopped)[0])
            except BaseException as error:
                put(error)

        task = asyncio.create_task(asyncio.to_thread(work))
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

    def _generate(
        self,
        requests: Sequence[ChatRequest],
        on_text: Callable[[str], None] | None = None,
        stopped: threading.Event | None = None,
    ) -> list[Completion]:
        import torch

        sent = time.perf_counter()
        with self._lock, torch.inference_mode():
            return self._decode(requests, sent, on_text, stopped)

    def _decode(
        self,
        requests: Sequence[ChatRequest],
        sent: float,
        on_text: Callable[[str], None] | None,
        stopped: threading.Event | None,
    ) -> list[Completion]:
        import torch
        from transformers import DynamicCache

        prompts = [self.encode(request) for request in requests]
        rows = [_Row(i, request, self.device) for i, request in enumerate(requests)]
        longest = max(map(len, prompts))
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (longest - len(p)) + p for p in prompts], device=self.device)
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=self.device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        cache = DynamicCache(config=self.model.config)
        live = list(rows)
        while live:
            output = self.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                use_cache=True,
                logits_to_keep=1,
                **{self._cache_argument: cache},
            )
            logits = output.logits[:, -1, :].float()  # (live rows, vocabulary)
            now = time.perf_counter()
            next_ids = [row.choose(logits[k], self.tokenizer) for k, row in enumerate(live)]
            for row, token in zip(live, next_ids, strict=True):
                row.take(token, self.stop_ids, self.tokenizer, now - sent, on_text)
            if stopped is not None and stopped.is_set():
                break
            keep = [k for k, row in enumerate(live) if row.finish_reason is None]
            if not keep:
                break
            if len(keep) < len(live):
                index = torch.tensor(keep, device=self.device)
                cache.batch_select_indices(index)
                mask, positions = mask[index], positions[index]
                live = [live[k] for k in keep]
            ids = torch.tensor([[row.ids[-1]] for row in live], device=self.device)
            mask = torch.cat([mask, mask.new_ones(len(live), 1)], dim=-1)
            positions = positions[:, -1:] + 1
        return [row.completion(len(prompts[row.index]), self.tokenizer) for row in rows]

    async def aclose(self) -> None:
        del self.model


class _Row:
    """One reply as it grows."""

    def __init__(self, index: int, request: ChatRequest, device: str) -> None:
        self.index, self.request = index, request
        self.ids: list[int] = []
        self.finish_reason: str | None = None
        self.ttft_s: float | None = None
        self.latency_s: float | None = None
        self.top_logprobs: list[list[tuple[str, float]]] = []
        self._shown = ""
        self._generator: torch.Generator | None = None
        sampling = request.sampling
        if sampling.temperature > 0:
            import torch

            # A generator a row, seeded by the request: a draw does not depend on its neighbours.
            seed = text_hash(request.model_dump_json())[:12]
            self._generator = torch.Generator(device=device).manual_seed(int(seed, 16))

    def choose(self, logits: torch.Tensor, tokenizer: Any) -> int:
        """logits (vocabulary,) → the next token id."""
        import torch

        if k := self.request.top_logprobs:
            values, ids = torch.log_softmax(logits, -1).topk(k)
            self.top_logprobs.append(
                [(tokenizer.decode([i]), v) for i, v in zip(ids.tolist(), values.tolist(), strict=True)]
            )
        sampling = self.request.sampling
        if self._generator is None:
            return int(logits.argmax())
        probabilities = torch.softmax(logits / sampling.temperature, -1)
        ordered, ids = probabilities.sort(descending=True)
        outside = ids[(ordered.cumsum(-1) - ordered) >= sampling.top_p]
        probabilities[outside] = 0
        # Drawn in the order of the vocabulary (Gumbel's trick): rounding in a batch may swap neighbours of
        # the sorted list, and must not turn one draw into another.
        noise = torch.empty_like(probabilities).exponential_(generator=self._generator)
        return int((probabilities / noise).argmax())

    def take(
        self,
        token: int,
        stop_ids: set[int],
        tokenizer: Any,
        elapsed: float,
        on_text: Callable[[str], None] | None,
    ) -> None:
        if token in stop_ids:
            self.finish_reason, self.latency_s = "stop", elapsed
            if self.top_logprobs:
                self.top_logprobs.pop()  # that of the stop token, which is not part of the text
            return
        self.ids.append(token)
        if self.ttft_s is None or on_text is not None:
            text = tokenizer.decode(self.ids, skip_special_tokens=True)
            if self.ttft_s is None and text.strip():
                self.ttft_s = elapsed
            # Bytes of an unfinished character decode to U+FFFD: hold them back until it is whole.
            if on_text is not None and not text.endswith("�") and len(text) > len(self._shown):
                on_text(text[len(self._shown) :])
                self._shown = text
        self.latency_s = elapsed
        if len(self.ids) >= self.request.sampling.max_tokens:
            self.finish_reason = "length"

    def completion(self, prompt_tokens: int, tokenizer: Any) -> Completion:
        return Completion(
            text=tokenizer.decode(self.ids, skip_special_tokens=True).strip(),
            finish_reason=self.finish_reason or "other",
            prompt_tokens=prompt_tokens,
            completion_tokens=len(self.ids),
            ttft_s=self.ttft_s if self.ttft_s is not None else self.latency_s,
            latency_s=self.latency_s,
            top_logprobs=self.top_logprobs if self.request.top_logprobs else None,
        )


def _weights_bytes(folder: Path) -> int | None:
    """Of a folder; None for a Hub repository."""
    if not folder.is_dir():
        return None
    return sum(path.stat().st_size for path in folder.iterdir() if path.suffix in {".safetensors", ".bin"}) or None


def source_identity(source: str) -> str:
    """What the weights are: a hash over a folder's weights and tokenizer; a Hub repository by its name."""
    import hashlib

    folder = Path(source)
    if not folder.is_dir():
        return source
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.suffix in {".safetensors", ".json", ".jinja", ".bin"}):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]
