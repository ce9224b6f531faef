"""Tiny real models and conversations for the tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distiller.schema import Conversation, Message


def make_tiny_model(
    tokenizer_folder: Path,
    folder: Path,
    *,
    layers: int = 4,
    seed: int = 0,
    extra_vocabulary: int = 0,
    tied: bool = True,
) -> Path:
    """Saves a random Llama of width 64. `extra_vocabulary`: rows beyond the tokenizer's, as padding makes them."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer) + extra_vocabulary,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        initializer_range=0.1,
        tie_word_embeddings=tied,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_silent_model(tokenizer_folder: Path, folder: Path) -> Path:
    """One whose every next token is the first of the vocabulary, which ends the text: it answers at once, with nothing."""
    from safetensors.torch import save_file

    make_tiny_model(tokenizer_folder, folder, layers=1, tied=False)
    weights = weights_of(folder)
    weights["lm_head.weight"].zero_()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def talk(identity: str, *texts: str, system: str | None = None, **metadata: Any) -> Conversation:
    """A conversation of user and assistant messages in turn."""
    messages = [Message(role="system", content=system)] if system else []
    for k, text in enumerate(texts):
        messages.append(Message(role="assistant" if k % 2 else "user", content=text))
    return Conversation(id=identity, messages=messages, metadata=metadata)


QUERIES = (
    "Where is my parcel?",
    "How do I return a kettle that I bought last week?",
    "Can I pay with two gift cards at once?",
    "My charger does not work any more, what now?",
    "When are you open on public holidays?",
    "I want to change the delivery address of my order.",
    "Please cancel my subscription to the newsletter, I get far too many mails from you.",
    "Do you ship to islands?",
    "What does express delivery cost?",
    "The invoice shows another name than mine; could you correct it before Friday?",
    "Is the blue one in stock?",
    "Hello",
)
REPLIES = (
    "You can track it at fernhill.example/track with your order number.",
    "Send it back within 30 days; the label is in your account.",
    "Yes, up to five gift cards can be used together.",
    "I am sorry about that. The guarantee covers it for two years.",
    "We are closed on public holidays.",
    "Open your account, choose the order and press change address.",
    "Done. You will get no more mails from us.",
    "Yes, for seven dollars extra.",
    "Express delivery costs $12.50.",
    "Of course, the new invoice is on its way to you.",
    "The blue one is in stock and ships today.",
    "Hello, how can I help you today?",
)


def talks(n: int, turns: int = 1, prefix: str = "c") -> list[Conversation]:
    """`n` different conversations of `turns` turns with references."""
    result = []
    for k in range(n):
        texts: list[str] = []
        for t in range(turns):
            index = (k * turns + t) % len(QUERIES)
            texts += [f"{QUERIES[index]} (case {prefix}{k}.{t})", REPLIES[index]]
        result.append(talk(f"{prefix}{k}", *texts))
    return result


def user(text: str) -> list[Message]:
    return [Message(role="user", content=text)]


def weights_of(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def largest_difference(first: dict[str, Any], second: dict[str, Any]) -> float:
    assert first.keys() == second.keys()
    return max(float((first[key].float() - second[key].float()).abs().max()) for key in first)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def all_messages(conversations: Sequence[Conversation]) -> list[str]:
    return [message.content for conversation in conversations for message in conversation.messages]


def with_system(conversation: Conversation, system: str) -> Conversation:
    """The conversation as a model sees it that is told `system`."""
    said = [message for message in conversation.messages if message.role != "system"]
    return conversation.model_copy(update={"messages": [Message(role="system", content=system), *said]})
