"""Chat models behind one seam (`base.ChatModel`), opened by name (`registry.open_model`)."""

from distiller.chat.base import ChatModel, ChatRequest, Sampling
from distiller.chat.registry import OpenOptions, open_model

__all__ = ["ChatModel", "ChatRequest", "OpenOptions", "Sampling", "open_model"]
