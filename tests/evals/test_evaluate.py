"""Models on a conversation file, without a run: replay, measure, score, report, leaderboard, command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from distiller.job import load_job
from distiller.schema import Conversation, write_jsonl
from evals.compare import only_of_their_role, verdicts
from evals.contestants import Contestant, by_name, file_names
from evals.labels import labels
from evals.leaderboard import REPORT_KEYS
from tests.conftest import PROJECT
from tests.tiny import talks


def with_facts(conversation: Conversation) -> Conversation:
    """Each reply has to state its own first words; "Done." is too little to be told from chance."""
    first = [" ".join((turn.reference or "").split(".")[0].split()[:4]) for turn in conversation.turns()]
    facts = [[[words]] if " " in words else [] for words in first]
    return conversation.model_copy(update={"metadata": {"intent": "x", "facts": facts}})


@pytest.fixture(scope="module")
def out(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluation")
    data = [with_facts(c) for c in talks(3, turns=2)]
    write_jsonl(folder / "data.jsonl", data)
    names = f"hf:{tiny_model},recorded:{folder / 'data.jsonl'}"
    command = [sys.executable, "-m", "evals", "run", "--models", names, "--data", str(folder / "data.jsonl")]
    command += ["--out", str(folder / "out"), "--max-tokens", "8", "--timed-turns", "2", "--quiet", "--free"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "out"


def test_the_references_are_all_right_and_the_random_model_is_not(out: Path) -> None:
    report = json.loads((out / "report.json").read_text())
    tiny, recorded = report["rows"]
    assert recorded["accuracy"] == 1.0
    assert recorded["accuracy_ci"][1] == 1.0
    assert recorded["bleu"] == pytest.approx(100)
    assert recorded["embedding_similarity"] == pytest.approx(1, abs=1e-4)
    assert recorded["free_accuracy"] == 1.0
    assert recorded["rank"] == 1
    assert tiny["accuracy"] == 0.0
    assert tiny["rank"] == 2
    assert tiny["accuracy_kind"] == "facts"
    assert 4 <= tiny["n"] <= 6


def test_a_row_has_every_key(out: Path) -> None:
    for row in json.loads((out / "report.json").read_text())["rows"]:
        assert set(REPORT_KEYS) <= row.keys()


def test_times_and_resources_are_those_of_a_local_model_only(out: Path) -> None:
    tiny, recorded = json.loads((out / "report.json").read_text())["rows"]
    assert 0 < tiny["ttft_p50_s"] <= tiny["latency_p50_s"] <= tiny["latency_p95_s"]
    assert tiny["parameters"] > 0
    assert 100 < tiny["peak_memory_mb"] < 5000
    assert tiny["weights_mb"] > 0
    assert tiny["cost_per_1k"] > 0
    assert recorded["parameters"] is None
    assert recorded["peak_memory_mb"] is None


def test_the_report_is_self_contained_and_escaped(out: Path) -> None:
    html = (out / "report.html").read_text()
    assert "plotly.js v" in html
    assert "<script src=" not in html
    markdown = (out / "report.md").read_text()
    assert "Paired tests" in markdown
    assert "BLEU signature: nrefs:1" in markdown


def test_models_are_told_what_a_job_tells_its_student(tiny_model: Path, tmp_path: Path) -> None:
    data = [with_facts(c) for c in talks(2, turns=2)]
    write_jsonl(tmp_path / "data.jsonl", data)
    (tmp_path / "policies.md").write_text("## Returns\n- Send it back.\n")
    job = {
        "name": "desk",
        "teacher_model": f"hf:{tiny_model}",
        "student_model": f"hf:{tiny_model}",
        "training_data": str(tmp_path / "data.jsonl"),
        "validation_data": str(tmp_path / "data.jsonl"),
        "system_prompt": "You are Ada.",
        "retrieval": {"policies": str(tmp_path / "policies.md"), "student": True, "lines": 1},
        "evaluation": {"max_tokens": 4, "timed_turns": 1},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    told = by_name(f"hf:{tiny_model}", load_job(tmp_path / "job.yaml")).prompting()
    assert told.base == "You are Ada."
    assert told.reference_policies(data[:1])[0][0] == "- Send it back."
    names = f"hf:{tiny_model},recorded:{tmp_path / 'data.jsonl'}"
    command = [sys.executable, "-m", "evals", "run", "--models", names, "--data", str(tmp_path / "data.jsonl")]
    command += ["--job", str(tmp_path / "job.yaml"), "--out", str(tmp_path / "out"), "--quiet"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["settings"]["max_tokens"] == 4
    assert [row["accuracy"] for row in report["rows"]] == [0.0, 1.0]
    refused = subprocess.run(
        [*command, "--system-prompt", "x"], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert refused.returncode == 3
    assert "leave out --system-prompt" in refused.stderr


def test_errors_are_words(tmp_path: Path) -> None:
    for arguments, code, words in (
        (["run", "--models", "bundled:x"], 3, "--data FILE"),
        (["leaderboard", "--run", "nothing"], 8, "There is no run 'nothing'"),
        (["compare", "a", "b"], 1, "no report yet"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "evals", *arguments], cwd=PROJECT, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stderr
        assert words in done.stderr
        assert "Traceback" not in done.stderr
    done = subprocess.run(
        [sys.executable, "-m", "evals", "leaderboard", "--json"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == []


def test_two_runs_students_keep_their_own_files_and_names() -> None:
    students = [Contestant(f"run:{run}/student", "student") for run in "ab"]
    teacher = Contestant("run:a/teacher", "teacher")
    folder = Contestant("hf:/models/tiny", None)
    files = file_names([*students, teacher, folder])
    assert len(set(files.values())) == 4
    assert files["run:a/teacher"] == "teacher"
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-") for name in files.values())
    rows = [
        {"model": c.name, "role": c.role, "accuracy": a}
        for c, a in zip([teacher, *students], (0.5, 0.6, 0.4), strict=True)
    ]
    assert labels(rows) == {
        "run:a/teacher": "teacher · a",
        "run:a/student": "student · a",
        "run:b/student": "student · b",
    }
    assert set(only_of_their_role(rows)) == {"teacher"}
    pairs = [
        {"metric": "accuracy", "a": "run:a/teacher", "b": "run:a/student", "roles": ["teacher", "student"], "difference": -0.1, "ci": [-0.2, 0.0], "p_adjusted": 0.2},
        {"metric": "accuracy", "a": "run:a/student", "b": "run:b/student", "roles": ["student", "student"], "difference": 0.2, "ci": [0.1, 0.3], "p_adjusted": 0.01},
    ]  # fmt: skip
    said = verdicts(rows, pairs)
    assert said[0].startswith("No difference from run:a/teacher can be claimed in accuracy +10 points")
    assert said[1].startswith("run:a/student beats run:b/student in accuracy +20 points")
