"""`python -m distiller serve`: any client of the OpenAI protocol can use the student."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from distiller.errors import ExportError, ModelError, RunError
from distiller.export.serve import KEY_VARIABLE, servable
from distiller.export.source import find_source
from distiller.export.stage import export
from tests.conftest import PROJECT
from tests.distiller.test_cli import cli
from tests.fabricated import make_run


@contextmanager
def served(*arguments: str, key: str = "") -> Iterator[tuple[str, str, subprocess.Popen[str]]]:
    """The address, what was said before it answered, and the process."""
    environment = os.environ | {KEY_VARIABLE: key, "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-m", "distiller", "serve", *arguments, "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        found = re.search(r"http://\S+/v1", said)
        assert found, said + process.stdout.read()
        yield found.group(), said, process
    finally:
        process.kill()
        process.wait(30)


def test_a_client_talks_to_a_folder_s_model(tiny_model: Path) -> None:
    with served(str(tiny_model)) as (address, said, process):
        client = openai.OpenAI(base_url=address, api_key="none", max_retries=0, timeout=60)
        [model] = client.models.list().data
        assert said.startswith(f"{model.id} (")
        asked: list[Any] = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Where is my parcel?"},
        ]
        whole = client.chat.completions.create(
            model=model.id,
            messages=asked,
            max_tokens=12,
            temperature=0,
            logprobs=True,
            top_logprobs=3,
        )
        assert whole.usage is not None
        assert whole.usage.completion_tokens <= 12
        [choice] = whole.choices
        assert choice.logprobs is not None
        assert choice.logprobs.content is not None
        assert len(choice.logprobs.content[0].top_logprobs) == 3
        stream = client.chat.completions.create(
            model=model.id, messages=asked, max_tokens=12, temperature=0, stream=True,
            stream_options={"include_usage": True},
        )  # fmt: skip
        chunks = list(stream)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == choice.message.content
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_without_its_key_nobody_is_answered(tiny_model: Path) -> None:
    with served(str(tiny_model), key="secret-of-the-desk") as (address, said, process):
        asked: dict[str, Any] = {"model": "any", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=address, api_key="guess", max_retries=0).chat.completions.create(**asked)
        client = openai.OpenAI(base_url=address, api_key="secret-of-the-desk", max_retries=0)
        assert client.chat.completions.create(**asked).choices
        assert "secret" not in said
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert process.stdout is not None
        assert "secret" not in process.stdout.read()


def test_an_exported_student_brings_along_what_it_has_to_be_told(tiny_model: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path, system_prompt="You are the desk.")
    shutil.copytree(tiny_model, run.path("student"))
    run.finish_stage("train")
    export(find_source(run.id), "gguf", tmp_path / "desk", verify=False, quiet=True)
    found = servable(f"gguf:{tmp_path / 'desk' / 'desk-q8_0.gguf'}")
    assert (found.alias, found.system_prompt) == ("desk-q8_0", "You are the desk.")
    assert found.advice == servable(run.id).advice
    assert "system prompt" in found.advice[0]


def test_what_cannot_be_served_is_said_in_words() -> None:
    with pytest.raises(RunError, match="There is no run 'nobody'"):
        servable("nobody")
    with pytest.raises(ModelError, match="there is no such model"):
        servable("bundled:gpt-4")
    with pytest.raises(ModelError, match=r"there is no file none\.gguf"):
        servable("gguf:none.gguf")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        refused = cli("serve", "bundled:smollm2-135m-instruct", "--port", port)
    assert refused.returncode == 8
    assert f"Nothing can listen at 127.0.0.1:{port}" in refused.stderr


def test_an_architecture_that_llama_cpp_does_not_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    from distiller.chat.bundled import chat_model_folder

    folder = tmp_path / "gpt2"
    GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=32, vocab_size=49152)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(chat_model_folder("smollm2-135m-instruct")).save_pretrained(folder)
    monkeypatch.setenv("DISTILLER_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ExportError, match="transformers serve"):
        servable(str(folder))
