"""The Go template of a Modelfile writes what the model's own template writes, or is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distiller.chat.transformers_local import render_messages
from distiller.export.ollama import frame_of, modelfile
from distiller.schema import Message
from tests.tiny import user

LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
PHI3 = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
#: Gemma's kind: the system prompt stands in the first question.
INSIDE = (
    "{% set first = messages[0].content + '\n\n' if messages[0].role == 'system' else '' %}"
    "{% for m in messages if m.role != 'system' %}<turn>{{ m.role }}\n{{ first if loop.first }}{{ m.content }}</turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
)


@pytest.fixture
def tokenizer(bundled_folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(bundled_folder)


def conversation() -> list[Message]:
    return [
        Message(role="system", content="Be brief."),
        *user("Hi"),
        Message(role="assistant", content="Hello."),
        *user("Bye"),
    ]


@pytest.mark.parametrize("template", [None, LLAMA3, PHI3], ids=["chatml", "llama3", "phi3"])
def test_a_frame_writes_conversations_as_the_template_does(template: str | None, tokenizer: Any) -> None:
    if template:
        tokenizer.chat_template, tokenizer.bos_token = template, "<|begin|>"
    frame = frame_of(tokenizer)
    assert frame is not None
    for messages in (conversation(), conversation()[1:], user("Hi")):
        assert frame.render(messages) == render_messages(tokenizer, messages, add_generation_prompt=True)


def test_a_modelfile_in_full(tokenizer: Any) -> None:
    assert modelfile("desk-q8_0.gguf", tokenizer, ["<|im_end|>"], "You are the desk.") == (
        "FROM ./desk-q8_0.gguf\n"
        'TEMPLATE """{{ range .Messages }}{{ if eq .Role "system" }}<|im_start|>system\n{{ .Content }}<|im_end|>\n'
        '{{ else if eq .Role "assistant" }}<|im_start|>assistant\n{{ .Content }}<|im_end|>\n'
        "{{ else }}<|im_start|>user\n{{ .Content }}<|im_end|>\n"
        '{{ end }}{{ end }}<|im_start|>assistant\n"""\n'
        'SYSTEM """You are the desk."""\n'
        "PARAMETER temperature 0\n"
        'PARAMETER stop "<|im_end|>"\n'
    )


def test_the_system_prompt_that_a_template_writes_by_itself_is_kept(tokenizer: Any) -> None:
    assert 'SYSTEM """You are a helpful AI assistant named SmolLM' in modelfile("m.gguf", tokenizer, [], "")


@pytest.mark.parametrize("template", [INSIDE, "{{ messages[-1].content }}", '{{ "{{" }}' + PHI3])
def test_a_template_that_does_more_is_left_to_ollama(template: str, tokenizer: Any) -> None:
    tokenizer.chat_template = template
    text = modelfile("m.gguf", tokenizer, ["</s>"], "Be brief.")
    assert "TEMPLATE" not in text
    assert text.startswith("FROM ./m.gguf\n#")
    assert 'SYSTEM """Be brief."""' in text
