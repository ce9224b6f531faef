"""What goes to a Space and what must not; the Hub is a fake that keeps what it is sent."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from distiller.errors import RunError
from distiller.runs import Run
from tests.conftest import PROJECT
from tests.reports import make_report
from ui.access import Visitor, claim
from ui.deploy import DeployError, attributes, overview, project_files, refuse_secrets, run_files, upload


class FakeHub:
    def __init__(self, folder: Path, attributes: str | None = None, error: Exception | None = None) -> None:
        self.present, self.error = folder / "attributes", error
        self.made: list[dict[str, Any]] = []
        self.sent: dict[str, bytes] = {}
        self.asked: dict[str, Any] = {}
        if attributes is not None:
            self.present.write_text(attributes)

    def create_repo(self, repo_id: str, **settings: Any) -> None:
        if self.error:
            raise self.error
        self.made.append({"repo_id": repo_id} | settings)

    def file_exists(self, repo_id: str, filename: str, *, repo_type: str) -> bool:
        return self.present.exists()

    def hf_hub_download(self, repo_id: str, filename: str, *, repo_type: str) -> str:
        return str(self.present)

    def upload_folder(self, *, folder_path: Path, **settings: Any) -> None:
        self.asked = settings
        self.sent = {
            path.relative_to(folder_path).as_posix(): path.read_bytes()
            for path in sorted(folder_path.rglob("*"))
            if path.is_file()
        }


def repository(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    for command in (["init", "-q"], ["add", "-A"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


def finished_run(runs: Path, name: str) -> Path:
    folder = runs / name
    job = {"name": name, "teacher_model": "hf:x/y", "student_model": "hf:x/y", "hyperparameters": {"loss": "sequence"}}
    job |= {"training_data": "data/train.jsonl", "validation_data": "data/validation.jsonl"}
    make_report(folder, {f"run:{name}/student": [True] * 5})
    for path, text in {
        "job.yaml": yaml.safe_dump(job),
        "manifest.json": "{}",
        "student/config.json": "{}",
        "student/model.safetensors": "weights",
        "baseline/model.safetensors": "not these",
        "predictions/student.jsonl": "nor these",
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


def test_what_git_tracks_goes_and_what_only_development_needs_stays(tmp_path: Path) -> None:
    files = {"app.py": "", "ui/app.py": "", "docs/results.md": "", "models/m/w.safetensors": "w"}
    unneeded = {"tests/test_x.py": "", "benchmarks/b.py": "", ".ci/run": "", ".gitignore": "runs/\n", "docs/a.png": ""}
    root = repository(tmp_path, files | unneeded)
    (root / "untracked.txt").write_text("")
    (root / "runs").mkdir()
    (root / "runs" / "x").write_text("")
    assert set(project_files(root)) == set(files)
    (root / "app.py").unlink()
    assert set(project_files(root)) == set(files) - {"app.py"}


def test_without_git_it_is_said_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DeployError, match="from a clone"):
        project_files(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        (".env", "", ".env"),
        ("config/.env.local", "", "config/.env.local"),
        ("server.key", "", "server.key"),
        ("notes.md", "one\ntwo\nhf_" + "a1" * 17, "notes.md, line 3"),
        ("ui/x.py", "KEY = 'sk-" + "Ab1-" * 10 + "'", "ui/x.py, line 1"),
        ("x.txt", "-----BEGIN RSA PRIVATE " + "KEY-----", "x.txt, line 1"),
    ],
)
def test_secrets_are_refused_by_name_and_by_content(tmp_path: Path, name: str, text: str, found: str) -> None:
    files = project_files(repository(tmp_path, {"app.py": "", name: text}))
    with pytest.raises(DeployError, match=re.escape(found)):
        refuse_secrets(files)


def test_this_project_holds_nothing_that_looks_like_a_secret() -> None:
    files = project_files()
    refuse_secrets(files)
    assert {"app.py", "README.md", "requirements.txt", "datasets/helpdesk/test.jsonl"} <= set(files)
    assert not [name for name in files if name.startswith((".", "tests/", "runs/"))]


def test_a_finished_run_comes_along_with_its_student_and_its_report(runs_folder: Path) -> None:
    finished_run(runs_folder, "desk-1")
    kept = ["job.yaml", "manifest.json", "report.json", "student/config.json", "student/model.safetensors"]
    assert list(run_files("desk")) == [f"runs/desk-1/{name}" for name in kept]
    with pytest.raises(RunError, match="no run 'other'"):
        run_files("other")


def test_a_run_that_is_unfinished_or_a_visitor_s_own_stays_here(runs_folder: Path) -> None:
    folder = finished_run(runs_folder, "desk-1")
    claim(Run(folder), Visitor("ann", False), private=True)
    with pytest.raises(DeployError, match="visitor's own data"):
        run_files("desk-1")
    (folder / "manifest.json").unlink()
    with pytest.raises(DeployError, match="not finished"):
        run_files("desk-1")


def test_upload_sends_exactly_the_files_and_deletes_nothing(tmp_path: Path) -> None:
    root = repository(tmp_path / "project", {"app.py": "print()", "models/[a]/w.safetensors": "w", "tests/t.py": ""})
    hub = FakeHub(tmp_path)
    upload("ada/desk", project_files(root), hub, private=True)
    assert hub.made == [
        {"repo_id": "ada/desk", "repo_type": "space", "space_sdk": "gradio", "private": True, "exist_ok": True}
    ]
    assert set(hub.sent) == {"app.py", "models/[a]/w.safetensors", ".gitattributes"}
    assert b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n" in hub.sent[".gitattributes"]
    assert "delete_patterns" not in hub.asked
    assert (hub.asked["repo_id"], hub.asked["repo_type"]) == ("ada/desk", "space")


def test_the_attributes_that_people_made_stay(tmp_path: Path) -> None:
    theirs = "*.mp4 filter=lfs diff=lfs merge=lfs -text\n*.gguf filter=lfs diff=lfs merge=lfs -text\n"
    hub = FakeHub(tmp_path, theirs)
    upload("ada/desk", {}, hub)
    sent = hub.sent[".gitattributes"].decode()
    assert sent.startswith(theirs)
    assert sent.count("*.gguf") == sent.count("*.safetensors") == 1
    assert attributes(sent) == sent


@pytest.mark.parametrize("error", [httpx.ConnectError("no route"), OSError("403 Forbidden\nrequest id")])
def test_what_the_hub_refuses_is_said_in_words(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(DeployError, match=r"ada/desk: the Hub did not take it \((no route|403 Forbidden)\)"):
        upload("ada/desk", {}, FakeHub(tmp_path, error=error))


def test_the_overview_adds_up(tmp_path: Path) -> None:
    files = {"app.py": "x" * 500, "ui/a.py": "x" * 1000, "ui/b.py": "x" * 1000, "m/w.bin": "x" * 200_000}
    rows = overview(project_files(repository(tmp_path, files)))
    assert [(row["what"], row["files"], row["size"], row["stored as"]) for row in rows] == [
        ("app.py", 1, "0.5 kB", "git"),
        ("m/w.bin", 1, "0.2 MB", "large file"),
        ("ui/", 2, "2.0 kB", "git"),
        ("together", 4, "0.2 MB", ""),
    ]


def test_the_command_shows_a_dry_run_without_a_token(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key not in {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"}}
    environment |= {"HF_HOME": str(tmp_path), "NO_COLOR": "1"}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ui.deploy", *arguments]
        return subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)

    done = run("ada/desk")
    assert done.returncode == 0, done.stderr
    assert "adapter_model.safetensors" in done.stdout
    assert "large file" in done.stdout
    assert "nothing was sent" in done.stdout
    assert "HF_TOKEN" in done.stdout
    assert run("desk").returncode == 2


def test_the_front_matter_is_what_a_space_reads() -> None:
    head = yaml.safe_load((PROJECT / "README.md").read_text("utf-8").split("---")[1])
    pinned = dict(line.split("==") for line in (PROJECT / "constraints.txt").read_text("utf-8").split() if "==" in line)
    assert head["sdk"] == "gradio"
    assert head["sdk_version"] == pinned["gradio"]
    assert head["python_version"] == "3.12"  # what ZeroGPU runs
    assert (PROJECT / head["app_file"]).exists()
    assert len(head["short_description"]) <= 60
    assert head["hf_oauth"] is True
    assert {head["colorFrom"], head["colorTo"]} <= {
        "red",
        "yellow",
        "green",
        "blue",
        "indigo",
        "purple",
        "pink",
        "gray",
    }
    for model in head["models"]:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", model)
