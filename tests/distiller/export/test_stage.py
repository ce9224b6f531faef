"""The export of a run and of a folder: done once, verified, recorded, and nothing half made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from distiller.errors import ExportError, RunError
from distiller.export.hub import push
from distiller.export.source import find_source, licence_in
from distiller.export.stage import export
from distiller.runs import Run, file_hash
from tests.distiller.test_cli import cli
from tests.fabricated import make_run
from tests.reports import make_report
from tests.tiny import make_tiny_model


@pytest.fixture
def run(tiny_model: Path, tmp_path: Path) -> Run:
    """A finished run whose student is the tiny model."""
    run = make_run(tmp_path, system_prompt="You are the desk.", student_model="bundled:smollm2-135m-instruct")
    shutil.copytree(tiny_model, run.path("student"))
    read = {
        split: {"conversations": n, "of": n, "turns": n} for split, n in (("train", 6), ("validation", 2), ("test", 1))
    }
    run.finish_stage("prepare", **read, sha256={"training_data": "0123456789abcdef"})
    run.finish_stage("student", layers=[0, 2], parameters=10_000_000, source_parameters=40_000_000)
    run.finish_stage("train")
    return run


def test_a_run_s_student_is_exported_once(run: Run) -> None:
    entry = export(find_source(run.id), "gguf", run.path("export"), quiet=True)
    file = run.path("export", "desk-q8_0.gguf")
    assert entry["sha256"] == file_hash(file)
    assert entry["bytes"] == file.stat().st_size > sum(entry["bytes_by_group"].values())
    assert entry["verification"]["faithful"]
    assert json.loads(run.path("export", "manifest.json").read_text())["exports"][file.name] == entry
    assert run.state["export"]["files"][file.name]["sha256"] == entry["sha256"]
    assert run.manifest is not None
    assert run.manifest["exports"][file.name]["faithful"] is True
    assert run.manifest["id"] == run.id  # what stood there stays
    assert 'SYSTEM """You are the desk."""' in run.path("export", "Modelfile").read_text()
    assert "desk-q8_0.gguf" in run.path("export", "README.md").read_text()
    written = file.stat().st_mtime_ns
    assert export(find_source("latest"), "gguf", run.path("export"), quiet=True) == entry
    assert file.stat().st_mtime_ns == written
    stages = [json.loads(line) for line in run.path("events.jsonl").read_text().splitlines()]
    assert [e["event"] for e in stages if e.get("stage") == "export"] == ["stage", "stage_done"] * 2


def test_what_is_missing_or_damaged_is_made_again(run: Run) -> None:
    out = run.path("export")
    unverified = export(find_source(run.id), "gguf", out, verify=False, quiet=True)
    assert "verification" not in unverified
    assert "not compared" in (out / "README.md").read_text()
    file = out / "desk-q8_0.gguf"
    whole = file.read_bytes()
    file.write_bytes(whole[:1000])  # a disk that was full
    again = export(find_source(run.id), "gguf", out, quiet=True)
    assert file.read_bytes() == whole
    assert again["verification"]["faithful"]
    four = export(find_source(run.id), "gguf", out, quant="q4_0", verify=False, quiet=True)
    assert four["bytes_by_group"]["embedding"] == again["bytes_by_group"]["embedding"]  # eight bits there
    assert four["bytes_by_group"]["feed_forward"] < again["bytes_by_group"]["feed_forward"]
    assert set(json.loads((out / "manifest.json").read_text())["exports"]) == {"desk-q8_0.gguf", "desk-q4_0.gguf"}
    assert not list(out.glob(".*partial"))


def test_a_student_trained_for_four_bits_has_them_everywhere(run: Run) -> None:
    path = run.path("student", "config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rounded_to": "q4_0"}))
    entry = export(find_source(run.id), "gguf", run.path("export"), quant="q4_0", quiet=True)
    assert entry["made_of"]["embedding_quant"] == "q4_0"
    assert entry["verification"]["faithful"]


def test_a_file_that_says_something_else_is_called_so(run: Run, bundled_folder: Path, tmp_path: Path) -> None:
    """As a fault of the writer would: the file is recorded with its hash, and is not what the folder is."""
    out = run.path("export")
    export(find_source(run.id), "gguf", out, verify=False, quiet=True)
    other = make_tiny_model(bundled_folder, tmp_path / "other", seed=5)
    export(find_source(str(other)), "gguf", tmp_path / "elsewhere", verify=False, quiet=True)
    shutil.copyfile(tmp_path / "elsewhere" / "other-q8_0.gguf", out / "desk-q8_0.gguf")
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["exports"]["desk-q8_0.gguf"]["sha256"] = file_hash(out / "desk-q8_0.gguf")
    (out / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ExportError, match="NOT faithful"):
        export(find_source(run.id), "gguf", out, quiet=True)
    kept = json.loads((out / "manifest.json").read_text())["exports"]["desk-q8_0.gguf"]
    assert kept["verification"]["faithful"] is False
    assert "NOT faithful" in (out / "README.md").read_text()
    assert run.state["export"]["files"]["desk-q8_0.gguf"]["faithful"] is False


def test_prompts_are_those_of_the_run_as_the_student_sees_them(run: Run, tiny_model: Path) -> None:
    asked = find_source(run.id).requests()
    assert len(asked) == 2
    assert asked[0].messages[0].content.startswith("You are the desk.")
    assert [request.messages[-1].role for request in asked] == ["user", "user"]
    assert "Policy line" not in str(asked)  # the student gets none, by its job
    assert len(find_source(str(tiny_model)).requests()) > 5


def test_sources_that_cannot_be_exported_say_why(run: Run, tmp_path: Path) -> None:
    run.path("state.json").write_text("{}")
    with pytest.raises(RunError, match="no finished student yet"):
        find_source(run.id)
    with pytest.raises(RunError, match="There is no run 'nobody'"):
        find_source("nobody")
    run.finish_stage("adapt_teacher")
    with pytest.raises(ExportError, match="only local models"):
        find_source(f"{run.id}/teacher")
    with pytest.raises(ExportError, match="openvino_genai"):
        export(find_source("bundled:smollm2-135m-instruct"), "openvino", tmp_path / "out", quiet=True)


def test_adapters_are_merged_first(bundled_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the domain teacher as it ships: a folder of adapters, whose base is the bundled model."""
    import distiller
    from distiller.chat.bundled import chat_model_folder

    shipped = Path(distiller.__file__).parents[1] / "models" / "fernhill-support-135m"
    merged = chat_model_folder("fernhill-support-135m")
    monkeypatch.setenv("DISTILLER_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / bundled_folder.name).symlink_to(bundled_folder)
    source = find_source(str(shipped))
    assert source.name == "fernhill-support-135m"
    assert file_hash(source.folder / "model.safetensors") == file_hash(Path(merged) / "model.safetensors")


def test_a_hub_folder_loads_and_its_card_says_what_is_known(run: Run) -> None:
    from huggingface_hub import ModelCard
    from transformers import AutoModelForCausalLM, AutoTokenizer

    make_report(run.folder, {f"run:{run.id}/teacher": [True, True, True], f"run:{run.id}/student": [True, False, True]},
                turns=[("c1", 1, "a"), ("c2", 1, "a"), ("c3", 1, "a")])  # fmt: skip
    entry = export(find_source(run.id), "hub", run.path("export"), repository="ada/desk", quiet=True)
    folder = run.path("export", "hub")
    assert set(entry["files"]) == {path.name for path in folder.iterdir()}
    AutoModelForCausalLM.from_pretrained(folder)
    AutoTokenizer.from_pretrained(folder)
    card: Any = ModelCard.load(folder / "README.md")
    assert card.data.license == "apache-2.0"
    assert card.data.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert card.data.pipeline_tag == "text-generation"
    accuracy = next(r for r in card.data.eval_results if r.metric_type == "accuracy")
    assert accuracy.metric_value == pytest.approx(2 / 3, abs=1e-4)
    assert "95%" in accuracy.metric_name
    for words in (
        "| accuracy | 100.0% (",
        "66.7% (",
        "You are the desk.",
        "10.0M parameters",
        "6 conversations, 6 turns, sha256 0123456789ab",
        "not stated",
    ):
        assert words in card.content
    assert str(run.folder) not in card.content  # no folder of this machine
    # Again, over what is there.
    assert export(find_source(run.id), "hub", run.path("export"), quiet=True)["files"].keys() == entry["files"].keys()
    assert not list(run.path("export").glob(".hub*"))


def test_licences_are_read_from_front_matter(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    assert licence_in(card) == ""
    card.write_text("---\nlicense: mit\ntags: [a]\n---\n# x")
    assert licence_in(card) == "mit"
    card.write_text("# no front matter")
    assert licence_in(card) == ""


class FakeHub:
    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.calls = error, []  # type: ignore[var-annotated]

    def create_repo(self, *arguments: Any, **named: Any) -> None:
        self.calls.append(("create_repo", arguments, named))

    def upload_folder(self, **named: Any) -> None:
        if self.error:
            raise self.error
        self.calls.append(("upload_folder", (), named))


def test_pushing(tmp_path: Path) -> None:
    hub = FakeHub()
    assert "https://huggingface.co/ada/desk" in push(tmp_path, "ada/desk", private=True, api=hub)
    (_, named, how), (_, _, sent) = hub.calls
    assert named == ("ada/desk",)
    assert how["private"] is True
    assert sent["folder_path"] == tmp_path
    with pytest.raises(ExportError, match=r"ada/desk: the Hub did not take it \(no way\)"):
        push(tmp_path, "ada/desk", private=False, api=FakeHub(OSError("no way")))


def test_the_command(tiny_model: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    done = cli("export", run.id, "--format", "hub", "--push", "ada/desk")
    assert done.returncode == 0, done.stderr
    assert "model.safetensors" in done.stdout
    assert "This was a dry run: there is no token" in done.stdout
    out = tmp_path / "out"
    done = cli("export", str(tiny_model), "--quant", "f16", "--out", str(out), "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["verification"]["faithful"]
    assert (out / "tiny-f16.gguf").exists()
    done = cli("export", str(tiny_model), "--quant", "q5_1", "--out", str(out))
    assert (done.returncode, done.stderr.strip()) == (5, "Error: --quant q5_1: choose one of f16, q8_0, q4_0.")
    done = cli("export", run.id, "--push", "ada/desk")
    assert done.returncode == 2
    assert "with --format hub" in done.stderr
    done = cli("export", "bundled:smollm2-135m-instruct")
    assert done.returncode == 2
    assert "--out is needed" in done.stderr
