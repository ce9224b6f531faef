"""The student that ships: what it is, what it is told, and that it knows the shop."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from distiller.chat import ChatModel, ChatRequest, OpenOptions, Sampling, open_model
from distiller.chat.bundled import MODELS, chat_model_folder, exported_file
from distiller.chat.gguf_local import GGUFModel
from distiller.errors import ModelError
from distiller.job import load_job
from distiller.runs import file_hash
from distiller.schema import Conversation, Message
from evals.contestants import by_name
from tests.conftest import PROJECT

NAME = "bundled:fernhill-student"


def ask(model: ChatModel, question: str) -> str:
    prompting = by_name(NAME).prompting()
    said = Conversation(id="chat", messages=[Message(role="user", content=question)])
    [policy] = prompting.reference_policies([said])
    messages = prompting.messages(said.turns(), [], 0, policy, None)
    [completion] = asyncio.run(model.complete([ChatRequest(messages=messages, sampling=Sampling(max_tokens=64))]))
    return completion.text


def test_it_is_the_file_that_was_verified_and_small() -> None:
    file = exported_file("fernhill-student")
    assert file is not None
    assert file.stat().st_size <= 13_000_000
    manifest = json.loads((file.parent / "manifest.json").read_text("utf-8"))
    entry = manifest["exports"][file.name]
    assert entry["sha256"] == file_hash(file)
    assert entry["verification"]["faithful"]
    model = open_model(NAME)
    assert isinstance(model, GGUFModel)
    assert model.parameters == manifest["run"]["stages"]["student"]["parameters"]


def test_it_is_told_what_it_was_trained_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its job is the one of `make student`, but for the precision of the machine that made it."""
    monkeypatch.chdir(PROJECT)
    contestant = by_name(NAME)
    assert contestant.role == "student"
    assert contestant.job is not None
    recipe = load_job(PROJECT / "configs" / "support.yaml")
    assert contestant.job.model_copy(update={"precision": recipe.precision}) == recipe
    assert contestant.prompting().lines == recipe.retrieval.lines


def test_it_knows_the_shop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    for options in (OpenOptions(), OpenOptions(precision="float32")):  # llama.cpp, and transformers as on a GPU
        model = open_model(NAME, options)
        assert "cryptocurrency" in ask(model, "Can I pay with bitcoin?")


def test_a_student_that_is_made_again_is_unpacked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file has the same size, so its content tells the two apart."""
    monkeypatch.setenv("DISTILLER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("distiller.chat.bundled.MODELS", tmp_path)
    monkeypatch.setattr(
        "distiller.chat.bundled._unpack_gguf", lambda source, folder: shutil.copytree(source.parent, folder)
    )
    file = tmp_path / "fernhill-student" / "support-q4_0.gguf"
    file.parent.mkdir()
    folders = []
    for content in (b"GGUF one", b"GGUF two"):
        file.write_bytes(content)
        folders.append(chat_model_folder("fernhill-student"))
    assert len(set(folders)) == 2


def test_without_its_file_it_is_said_how_to_make_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distiller.chat.bundled.MODELS", MODELS / "nowhere")
    with pytest.raises(ModelError, match="make student"):
        open_model(NAME)
