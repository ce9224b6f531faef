"""Replies that give their model away. A vote on one is not blind, so it is kept apart from the rating.

Names that mean nothing else (OpenAI, SmolLM2, GPT-4) count wherever they stand. Names that are also words or people
(Claude, a llama, the letter phi) and makers that also sell things (Google) count only where the reply speaks of
itself: "I am Phi", "a language model trained by Google".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

_UNMISTAKABLE = (
    r"openai|chat[- ]?gpt|gpt[- ]?\d[\w.]*|anthropic|claude[- ](?:\d[\w.]*|opus|sonnet|haiku|instant)|deep[- ]?seek"
    r"|smollm\d*|hugging ?face|(?:code|tiny)?llama[- ]?\d[\w.]*|(?:code|tiny)llama|meta ai|phi-?[1-4](?:\.5)?"
    r"|qwen[\d.]*|alibaba cloud|mixtral|mistral[- ](?:ai|\d+b)|ministral|gemma[- ]?\d\w*|deepmind|gemini[- ]\d[\w.]*"
)
_AMBIGUOUS = (
    r"gpt|claude|llama|phi|mistral|gemma|gemini|grok|falcon|bard|copilot|granite|olmo|kimi|nova|nemotron"
    r"|google|meta|microsoft|alibaba|amazon|apple|nvidia|ibm|xai|cohere|moonshot"
)
_MADE = r"(?:trained|made|created|developed|built|designed|powered|based|running)\s+(?:by|on|at)"
#: What stands before an ambiguous name when a reply speaks of itself.
_OF_ITSELF = (
    r"\bi(?:'m| am| was)\s+(?:an?\s+|the\s+)?",
    r"\b(?:my name is|call me|you are (?:chatting|talking|speaking) (?:with|to))\s+",
    rf"\bi(?:'m| am| was|'ve been| have been)\s+{_MADE}\s+(?:the\s+)?(?:\w+\s+at\s+)?",
    r"\b(?:i(?:'m| am)|as)\s+an?\s+[^.!?\n]{0,40}?\b(?:model|ai|assistant|chatbot|bot|agent)\b[^.!?\n]{0,40}?\b"
    rf"(?:{_MADE}|called|named|from)\s+(?:the\s+)?(?:\w+\s+at\s+)?",
)


def names_itself(reply: str, model_names: Sequence[str] = ()) -> bool:
    """Whether a reply names its model, its maker or a known family of models.

    `model_names`: what the contestants are called, in the grammar of model names (`hf:acme/desk-7b`).
    """
    text = reply.replace("’", "'")
    return any(pattern.search(text) for pattern in _patterns(tuple(model_names)))


@lru_cache(maxsize=256)
def _patterns(model_names: tuple[str, ...]) -> tuple[re.Pattern[str], ...]:
    own = {part for name in model_names for part in _parts(name)}
    # With a size or a version in it (desk-7b) a name is no ordinary word.
    sure = "|".join([_UNMISTAKABLE, *sorted(_loose(part) for part in own if re.search(r"\d", part))])
    rest = "|".join([_AMBIGUOUS, *sorted(_loose(part) for part in own if not re.search(r"\d", part))])
    patterns = [rf"(?<!\w)(?:{sure})(?!\w)", *(rf"{before}(?:{rest})(?!\w)" for before in _OF_ITSELF)]
    return tuple(re.compile(pattern, re.IGNORECASE) for pattern in patterns)


def _parts(name: str) -> list[str]:
    """`hf:acme/desk-7b` → `acme`, `desk-7b`. Folders and runs have names that no model knows."""
    kind, _, rest = name.partition(":")
    if kind not in {"hf", "openai", "bundled"} or rest.startswith(("/", ".")):
        return []
    return [part for part in rest.partition("@")[0].split("/") if len(part) > 2]


def _loose(part: str) -> str:
    return "[-_ ]?".join(re.escape(word) for word in re.split(r"[-_ ]+", part) if word)
