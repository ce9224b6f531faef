"""The seam to a model: one small class that every kind of chat model fills.

The engine (`distiller.answer`) calls `complete` with up to `max_batch` requests at a time, and keeps
`concurrency` such calls under way. The arena calls `stream`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence

from pydantic import BaseModel, Field

from distiller.schema import Completion, Message


class Sampling(BaseModel):
    """How a reply is drawn."""

    temperature: float = Field(0.0, ge=0, le=2, description="0 is greedy")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus: smallest set of tokens with this much probability")
    max_tokens: int = Field(256, ge=1, le=32_768, description="tokens a reply may have")
    seed: int = Field(0, ge=0, description="of the drawing, where the temperature is above 0")


class ChatRequest(BaseModel):
    messages: list[Message]
    sampling: Sampling = Sampling()
    #: How many of the most likely tokens to report at each position; 0 for none.
    top_logprobs: int = Field(0, ge=0, le=20)


class ChatModel(ABC):
    #: The name it was opened by, as in a job file.
    name: str
    #: What the model is, beyond its name: two models with one identity give the same replies.
    identity: str
    max_batch: int = 1
    concurrency: int = 1
    #: Of a model on this machine: how many weights it has, and the bytes that they take on disk as it is served.
    parameters: int | None = None
    weights_bytes: int | None = None

    @abstractmethod
    async def complete(self, requests: Sequence[ChatRequest]) -> list[Completion]:
        """One completion a request, in order. Raises RequestError."""

    @abstractmethod
    def stream(self, request: ChatRequest) -> AsyncGenerator[str | Completion, None]:
        """Pieces of text as they come, then the whole Completion. Closing the iterator stops the model."""

    def length(self, request: ChatRequest) -> int:
        """A measure to sort by, so that batches hold requests of one length."""
        return sum(len(message.content) for message in request.messages)

    async def aclose(self) -> None:
        """Lets go of connections and memory."""
        return None
