"""The whole way from conversations to a student, with real components, in seconds."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from distiller.errors import DataError, RunError
from distiller.job import DistillationJob, dump_job, parse_job
from distiller.jobs import job_rows
from distiller.pipeline import STAGES, run_job
from distiller.runs import folder_hash
from distiller.schema import read_conversations, read_jsonl, write_jsonl
from tests.conftest import PROJECT
from tests.fakes import FakeOpenAI, Fault
from tests.tiny import contents, talks

#: A random teacher writes nonsense: nothing of it is to be dropped for that.
LENIENT = {"language": "", "min_words": 0, "near_duplicate_similarity": 1, "max_intent_share": 1}


@pytest.fixture(scope="module")
def tiny(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with every twelfth token a stop: random text that comes to an end."""
    folder = tmp_path_factory.mktemp("pipeline") / "tiny"
    shutil.copytree(tiny_model, folder)
    path = folder / "generation_config.json"
    stops = [2, *range(20, 49_152, 12)]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": stops}))
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "train.jsonl", talks(6, turns=2))
    write_jsonl(tmp_path / "validation.jsonl", talks(2, turns=2, prefix="v"))
    write_jsonl(tmp_path / "test.jsonl", talks(2, prefix="t"))
    return tmp_path


def job(data: Path, tiny: Path, **more: Any) -> DistillationJob:
    values: dict[str, Any] = {
        "name": "tiny",
        "teacher_model": f"hf:{tiny}",
        "student_model": f"hf:{tiny}",
        "training_data": str(data / "train.jsonl"),
        "validation_data": str(data / "validation.jsonl"),
        "test_data": str(data / "test.jsonl"),
        "teacher_sampling": {"max_tokens": 80},
        "curation": LENIENT,
        "student": {"layers": 2, "vocabulary_size": 2000},
        "hyperparameters": {"num_epochs": 2, "batch_size": 2, "learning_rate": 1e-3},
        "precision": "float32",
        "max_batch": 4,
    }
    return parse_job(values | more)


def test_a_run_from_end_to_end(data: Path, tiny: Path) -> None:
    wanted = job(data, tiny)
    run = run_job(wanted, quiet=True)
    assert list(run.state) == list(STAGES)
    manifest = run.manifest
    assert manifest is not None
    assert manifest["student_sha256"] == folder_hash(run.path("student"))
    assert set(manifest["data"]) == {"training_data", "validation_data", "test_data"}
    assert manifest["versions"]["transformers"]
    synthetic = read_conversations(run.path("synthetic.train.jsonl"))
    assert [c.id for c in synthetic] == [c.id for c in talks(6)]
    assert manifest["stages"]["generate"]["train"]["replies"] == 12
    assert sum(manifest["stages"]["curate"]["train"].values()) == 12
    assert run.contestants() == ["teacher", "student", "baseline", "reference_trained", "untouched"]
    assert not list(run.folder.glob(".*checkpoint"))
    assert not list(run.folder.glob(".*partial*"))
    events = read_jsonl(run.path("events.jsonl"))
    assert [e["stage"] for e in events if e["event"] == "stage_done"] == list(STAGES)
    assert events[-2]["event"] == "done"
    (row,) = job_rows()
    assert (row["run"], row["state"]) == (run.id, "complete")

    before, began = contents(run.path("student")), time.perf_counter()
    again = run_job(wanted, quiet=True)
    assert time.perf_counter() - began < 1
    assert again.folder == run.folder
    assert contents(run.path("student")) == before
    assert run.manifest == manifest


def test_resumed_at_every_stage_it_gives_the_same_student(
    data: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapted = {"enabled": True, "num_epochs": 1, "lora_rank": None, "learning_rate": 1e-3}
    wanted = job(data, tiny, teacher_adaptation=adapted)
    whole = run_job(wanted, quiet=True)
    monkeypatch.setenv("DISTILLER_RUNS", str(tmp_path / "other"))
    for k, stage in enumerate(STAGES):
        part = run_job(wanted, quiet=True, until=stage)
        assert list(part.state) == list(STAGES)[: k + 1]
        assert part.manifest is None
    resumed = run_job(wanted, quiet=True)
    assert resumed.folder != whole.folder
    assert resumed.manifest is not None
    for name in ("teacher", "baseline", "student", "reference_trained"):
        assert folder_hash(resumed.path(name)) == folder_hash(whole.path(name)), name


def _killed_when(command: list[str], folder: Path, sign: str) -> None:
    """Starts the command and kills it as soon as the run's events hold `sign`."""
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if any(sign in path.read_text("utf-8") for path in folder.glob("tiny-*/events.jsonl")):
                break
            time.sleep(0.002)
        process.kill()
        assert process.wait(10) == -signal.SIGKILL, f"it ended before {sign!r} was seen"


def test_killed_at_any_moment_it_ends_in_the_same_student(
    data: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = job(data, tiny, teacher_adaptation={"enabled": True, "num_epochs": 2, "learning_rate": 1e-3})
    whole = run_job(wanted, quiet=True)
    other = tmp_path / "other"
    monkeypatch.setenv("DISTILLER_RUNS", str(other))
    (tmp_path / "job.yaml").write_text(dump_job(wanted))
    command = [sys.executable, "-m", "distiller", "run", str(tmp_path / "job.yaml"), "--quiet"]
    for sign in (
        '"epoch", "label": "Adapting the teacher"',
        '"stage": "generate"',
        '"epoch", "label": "Training the student"',
        '"stage": "reference_trained"',
    ):
        _killed_when(command, other, sign)
    subprocess.run(command, cwd=PROJECT, check=True, timeout=120)
    (folder,) = other.glob("tiny-*")
    for name in ("teacher", "baseline", "student", "reference_trained"):
        assert folder_hash(folder / name) == folder_hash(whole.path(name)), name


def test_an_api_teacher_is_counted_and_priced(data: Path, tiny: Path, openai_server: FakeOpenAI) -> None:
    wanted = job(
        data,
        tiny,
        teacher_model=openai_server.name,
        teacher_price={"input_per_million": 1e6, "output_per_million": 2e6},
        hyperparameters={"num_epochs": 1, "batch_size": 2, "loss": "sequence"},
        teacher_sampling={"max_tokens": 60},
        reference_trained=False,
    )
    run = run_job(wanted, quiet=True)
    spend = run.state["generate"]["train"]
    assert spend["cost_usd"] == spend["prompt_tokens"] + 2 * spend["completion_tokens"]
    assert len(openai_server.requests) == 16
    assert run.state["reference_trained"]["skipped"] is True
    assert "reference_trained" not in run.contestants()


def test_a_teacher_that_fails_stops_in_words_and_goes_on_later(
    data: Path, tiny: Path, openai_server: FakeOpenAI
) -> None:
    from distiller.errors import RequestError

    options: dict[str, Any] = {"hyperparameters": {"num_epochs": 1, "loss": "sequence"}, "reference_trained": False}
    wanted = job(data, tiny, teacher_model=openai_server.name, teacher_concurrency=1, **options)
    openai_server.always, openai_server.fail_when = Fault(status=401), "case c3.0"
    with pytest.raises(RequestError, match="refused the key"):
        run_job(wanted, quiet=True)
    answered = len(openai_server.answered)
    openai_server.always = None
    run = run_job(wanted, quiet=True)
    assert run.manifest is not None
    assert len(openai_server.answered) == 16 > answered > 4


def test_a_bad_teacher_stops_the_run_before_it_is_paid(data: Path, tiny: Path, openai_server: FakeOpenAI) -> None:
    knowing = [
        c.model_copy(update={"metadata": {"facts": [[["fernhill"]]] * 2}}) for c in talks(2, turns=2, prefix="v")
    ]
    write_jsonl(data / "validation.jsonl", knowing)
    wanted = job(
        data,
        tiny,
        teacher_model=openai_server.name,
        hyperparameters={"loss": "sequence"},
        stop_on_bad_teacher=True,
    )
    with pytest.raises(RunError, match=r"0\.0% correct, below min_teacher_accuracy 30%.*stop_on_bad_teacher"):
        run_job(wanted, quiet=True)
    assert len(openai_server.requests) == 4


def test_curation_that_leaves_nothing_says_why(data: Path, tiny: Path) -> None:
    wanted = job(data, tiny, curation=LENIENT | {"min_words": 100})
    with pytest.raises(RunError, match=r"dropped every reply to the train turns \((cut by length|empty)"):
        run_job(wanted, quiet=True)


def test_bad_lines_stop_the_run_or_are_kept_aside(data: Path, tiny: Path) -> None:
    with (data / "train.jsonl").open("a") as file:
        file.write("not json\n")
    wanted = job(data, tiny)
    with pytest.raises(DataError, match=r"train\.jsonl:7: not JSON"):
        run_job(wanted, quiet=True, until="prepare")
    run = run_job(wanted, quiet=True, until="prepare", skip_bad=True)
    assert run.state["prepare"]["quarantined"] == 1
    (row,) = read_jsonl(run.path("quarantine.jsonl"))
    assert (row["line"], row["text"]) == (7, "not json")


def test_the_sample_is_taken_as_the_job_says(data: Path, tiny: Path) -> None:
    run = run_job(job(data, tiny, sample={"training": 3, "test": 1}), quiet=True, until="prepare")
    assert run.state["prepare"]["train"] == {"conversations": 3, "of": 6, "turns": 6}
    assert len(read_conversations(run.path("data", "test.jsonl"))) == 1
    assert json.loads(run.path("state.json").read_text())["prepare"]["validation"]["conversations"] == 2
