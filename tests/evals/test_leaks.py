"""Replies that give their model away, and those that only sound like it."""

from __future__ import annotations

import json

import pytest

from evals.leaks import names_itself
from tests.conftest import PROJECT


@pytest.mark.parametrize(
    "reply",
    [
        "I am ChatGPT, how can I help?",
        "As an AI developed by OpenAI, I cannot see your order.",
        "I'm Claude, and I'd be glad to help.",
        "I’m Claude, made by Anthropic.",
        "My name is Gemma.",
        "You are talking to Llama.",
        "I am SmolLM2, trained by Hugging Face.",
        "I am a language model called Phi.",
        "I am Phi, a helpful assistant.",
        "This answer was written with GPT-4o.",
        "i am qwen2.5",
        "DeepSeek-V3 here: your parcel is on its way.",
        "I was trained by Google.",
        "As a large language model trained by the team at Meta, I have no orders.",
        "I am an assistant based on Mistral.",
        "Mistral 7B cannot cancel an order.",
        "(Llama-3.1) Hello!",
    ],
)
def test_names_itself(reply: str) -> None:
    assert names_itself(reply)


@pytest.mark.parametrize(
    "reply",
    [
        "I am the Fernhill support agent.",
        "I'm an AI assistant of Fernhill. How can I help?",
        "",
        "The letter phi (φ) on the adapter marks the phase.",
        "My colleague Claude will call you back on Monday.",
        "The Llama plush toy is sold out.",
        "I am happy to help with the speaker made by Google.",
        "You can pay with Google Pay or Apple Pay.",
        "I am sorry that your order from Amazon is late.",
        "Close the lid against the mistral, a strong wind.",
        "Philips makes the bulb, and the Delphi connector fits.",
        "The Gemini lamp has a metal base.",
        "Format the disk with a GPT partition table.",
        "I was able to find your order.",
        "I am sending the Nova case to you today.",
    ],
)
def test_does_not_name_itself(reply: str) -> None:
    assert not names_itself(reply, ["bundled:fernhill-support-135m", "run:quickstart-1/student"])


def test_names_of_the_contestants_count() -> None:
    names = ["hf:acme/desk-7b", "openai:supportbot@https://models.example/v1", "hf:/folder/model1"]
    assert names_itself("Desk 7B is at your service.", names)
    assert names_itself("I am an assistant made by Acme.", names)
    assert names_itself("I am SupportBot.", names)
    assert not names_itself("Our supportbot sleeps at night.", names)
    assert not names_itself("The desk is 7 cm wide.", names)
    assert not names_itself("Folder, model1.", names)
    assert names_itself("fernhill-support-135m", ["bundled:fernhill-support-135m"])


def test_no_reference_of_the_support_desk_does() -> None:
    for path in sorted((PROJECT / "datasets" / "helpdesk").glob("*.jsonl")):
        for line in path.read_text("utf-8").splitlines():
            for message in json.loads(line)["messages"]:
                assert not names_itself(message["content"], ["bundled:fernhill-support-135m"]), message["content"]
