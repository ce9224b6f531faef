"""One grammar of model names; what is wrong with a name is said in words."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from distiller.chat import OpenOptions, open_model
from distiller.chat.registry import local_source
from distiller.errors import DistillerError, ModelError, RunError


@pytest.mark.parametrize("name", ["", "gpt-4", "hf:", "openai:", "ftp:x", "HF:x", ":x"])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(ModelError, match=r"is no model name\. Expected bundled:NAME, hf:REPO_OR_FOLDER"):
        open_model(name)


def test_an_address_without_a_scheme() -> None:
    with pytest.raises(ModelError, match="must begin with http"):
        open_model("openai:gpt-4@localhost:8000")


def test_a_bundled_model_that_does_not_exist_lists_those_that_do() -> None:
    with pytest.raises(ModelError, match="there is: smollm2-135m-instruct"):
        open_model("bundled:gpt-4")


@pytest.mark.parametrize("name", ["hf:no/such-model", "hf:/nowhere/at/all"])
def test_a_model_that_is_not_there(name: str) -> None:
    with pytest.raises(ModelError, match="cannot be loaded"):
        open_model(name)


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be loaded"):
        open_model(f"hf:{tmp_path}")


@pytest.mark.parametrize("part", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_download_that_was_cut_off(tiny_model: Path, tmp_path: Path, part: str) -> None:
    folder = tmp_path / "cut"
    shutil.copytree(tiny_model, folder)
    whole = (folder / part).read_bytes()
    (folder / part).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="cannot be loaded"):
        open_model(f"hf:{folder}")


def test_a_folder_without_a_tokenizer(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bare"
    shutil.copytree(tiny_model, folder, ignore=shutil.ignore_patterns("tokenizer*", "chat_template*"))
    with pytest.raises(ModelError):
        open_model(f"hf:{folder}")


def test_a_run_that_is_unknown() -> None:
    with pytest.raises(RunError, match="There is no run 'nothing'"):
        open_model("run:nothing/student")


def test_names_open_the_kind_they_say(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_KEY", "k")
    remote = open_model("openai:org/model@https://api.example/v1", OpenOptions(key_variable="THE_KEY", concurrency=3))
    assert (remote.identity, remote.concurrency) == ("openai:org/model@https://api.example/v1", 3)
    local = open_model(f"hf:{tiny_model}", OpenOptions(precision="float32", max_batch=5))
    assert (local.name, local.max_batch) == (f"hf:{tiny_model}", 5)
    assert local.identity.endswith(":float32")


def test_local_source(bundled_folder: Path) -> None:
    assert local_source("hf:some/repo") == "some/repo"
    assert local_source("bundled:smollm2-135m-instruct") == str(bundled_folder)
    assert local_source("openai:gpt-4") is None
    assert local_source("recorded:x.jsonl") is None
    with pytest.raises(DistillerError):
        local_source("run:nothing")
