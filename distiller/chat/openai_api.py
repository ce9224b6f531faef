"""Any server that speaks the OpenAI protocol: `openai:MODEL@BASE_URL`.

The client's own retries are off: the engine retries, so that every try is counted once and in one
place. The key comes from an environment variable and goes nowhere else.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from distiller.chat.base import ChatModel, ChatRequest
from distiller.errors import ModelError, RefusedRequestError, RequestError, TransientRequestError
from distiller.schema import Completion

_FINISH = {"stop": "stop", "length": "length", "content_filter": "content_filter"}


class OpenAIModel(ChatModel):
    max_batch = 1

    def __init__(
        self,
        name: str,
        model: str,
        base_url: str | None,
        *,
        key_variable: str = "OPENAI_API_KEY",
        concurrency: int = 8,
        timeout_s: float = 120.0,
        streaming: bool = True,
    ) -> None:
        from openai import AsyncOpenAI

        key = os.environ.get(key_variable)
        if not key:
            if base_url is None or not base_url.startswith(("http://127.", "http://localhost", "http://[::1]")):
                raise ModelError(f"{name}: no key. Set the environment variable {key_variable} to your API key.")
            key = "none"  # servers on this machine ask for no key
        self.name, self.model, self.streaming, self.concurrency = name, model, streaming, concurrency
        self.identity = f"openai:{model}@{base_url or 'api.openai.com'}"
        self._client = AsyncOpenAI(api_key=key, base_url=base_url, max_retries=0, timeout=timeout_s)

    async def complete(self, requests: Sequence[ChatRequest]) -> list[Completion]:
        return [await self._complete(request) for request in requests]

    async def _complete(self, request: ChatRequest) -> Completion:
        if self.streaming and not request.top_logprobs:
            completion: Completion | None = None
            async for item in self.stream(request):
                if isinstance(item, Completion):
                    completion = item
            assert completion is not None
            return completion
        sent = time.perf_counter()
        with _words(self.name):
            response = await self._client.chat.completions.create(**self._arguments(request))
        latency = time.perf_counter() - sent
        if not response.choices:
            raise TransientRequestError(f"{self.name}: the server sent no choices.")
        choice = response.choices[0]
        logprobs = None
        if request.top_logprobs:
            if choice.logprobs is None or not choice.logprobs.content:
                raise RequestError(f"{self.name}: the server gives no log-probabilities.")
            logprobs = [[(top.token, top.logprob) for top in entry.top_logprobs] for entry in choice.logprobs.content]
        usage = response.usage
        return Completion(
            text=(choice.message.content or "").strip(),
            finish_reason=_FINISH.get(choice.finish_reason or "", "other"),
            prompt_tokens=usage.prompt_tokens if usage else None,
            completion_tokens=usage.completion_tokens if usage else None,
            ttft_s=latency,
            latency_s=latency,
            top_logprobs=logprobs,
        )

    async def stream(self, request: ChatRequest) -> AsyncGenerator[str | Completion, None]:
        sent = time.perf_counter()
        pieces: list[str] = []
        ttft: float | None = None
        finish: str | None = None
        usage: Any = None
        with _words(self.name):
            response = await self._client.chat.completions.create(
                **self._arguments(request), stream=True, stream_options={"include_usage": True}
            )
            async with response:
                async for chunk in response:
                    usage = chunk.usage or usage
                    if not chunk.choices:
                        continue
                    finish = chunk.choices[0].finish_reason or finish
                    if text := chunk.choices[0].delta.content:
                        ttft = ttft or time.perf_counter() - sent
                        pieces.append(text)
                        yield text
        if finish is None:
            raise TransientRequestError(f"{self.name}: the stream ended before the reply did.")
        yield Completion(
            text="".join(pieces).strip(),
            finish_reason=_FINISH.get(finish, "other"),
            prompt_tokens=usage.prompt_tokens if usage else None,
            completion_tokens=usage.completion_tokens if usage else None,
            ttft_s=ttft,
            latency_s=time.perf_counter() - sent,
        )

    def _arguments(self, request: ChatRequest) -> dict[str, Any]:
        sampling = request.sampling
        arguments: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": m.role, "content": m.content} for m in request.messages],
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
        }
        if sampling.temperature > 0:
            arguments["seed"] = sampling.seed
        if request.top_logprobs:
            arguments |= {"logprobs": True, "top_logprobs": request.top_logprobs}
        return arguments

    async def aclose(self) -> None:
        await self._client.close()


class _words:
    """Turns the client's errors into ours: what is worth another try, and what is not."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        import httpx
        import openai

        match error:
            case openai.APITimeoutError() | httpx.TimeoutException():
                raise TransientRequestError(f"{self.name}: the server did not answer in time.") from None
            case openai.APIStatusError() if error.status_code in {408, 409, 425, 429} or error.status_code >= 500:
                wish = error.response.headers.get("retry-after", "")
                wait = float(wish) if wish.replace(".", "", 1).isdigit() else None
                raise TransientRequestError(f"{self.name}: the server answered {error.status_code}.", wait) from None
            case openai.AuthenticationError() | openai.PermissionDeniedError():
                raise RequestError(f"{self.name}: the server refused the key ({error.status_code}).") from None
            case openai.NotFoundError():
                raise RequestError(f"{self.name}: the server knows no such model or address (404).") from None
            case openai.APIStatusError():
                raise RefusedRequestError(
                    f"{self.name}: the server answered {error.status_code}: {error.message[:300]}"
                ) from None
            case openai.APIConnectionError() | httpx.TransportError():
                raise TransientRequestError(f"{self.name}: no connection to the server.") from None
            case openai.APIError() | ValueError():
                raise TransientRequestError(f"{self.name}: the server sent a reply that cannot be read.") from None
