"""Run folders: found by name, worked on by one process, resumable until their manifest stands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from distiller.errors import ModelError, RunError
from distiller.job import DistillationJob, parse_job
from distiller.jobs import job_rows, state_of
from distiller.runs import Run, file_hash, find_run, folder_hash, list_runs, open_run_of, resolve_model
from tests.conftest import PROJECT


def job(name: str = "shop", **more: object) -> DistillationJob:
    values = {
        "name": name,
        "teacher_model": "hf:teacher",
        "student_model": "hf:student",
        "training_data": "x.jsonl",
        "validation_data": "y.jsonl",
        "student": {"layers": 2},
    }
    return parse_job(values | more, check_files=False)


def opened(name: str, age_s: int = 0, **more: object) -> Run:
    run = open_run_of(job(name, **more))
    path = run.path("job.yaml")
    stamp = path.stat().st_mtime - age_s
    os.utime(path, (stamp, stamp))
    return run


def test_one_job_has_one_run(runs_folder: Path) -> None:
    first = open_run_of(job())
    assert first.folder.parent == runs_folder
    assert first.id == f"shop-{job().hash()[:8]}"
    assert open_run_of(job()).folder == first.folder
    assert open_run_of(job(seed=1)).folder != first.folder
    assert first.job == job()


def test_runs_are_found_by_id_by_start_and_latest() -> None:
    old, new = opened("shop", 100), opened("shop", seed=1)
    assert [run.id for run in list_runs()] == [new.id, old.id]
    assert find_run(old.id).id == old.id
    assert find_run("shop").id == new.id
    assert find_run("latest").id == new.id
    with pytest.raises(RunError, match=rf"There is no run 'x' .*{new.id}, {old.id}"):
        find_run("x")


def test_without_runs_it_says_how_to_start_one() -> None:
    with pytest.raises(RunError, match=r"none yet.*python -m distiller run"):
        find_run("latest")


def test_names_of_contestants() -> None:
    run = opened("shop")
    assert run.model_name("teacher") == "hf:teacher"
    assert run.model_name("untouched") == "hf:student"
    with pytest.raises(ModelError, match="not made yet"):
        resolve_model(f"{run.id}/student")
    with pytest.raises(ModelError, match="a run has teacher, student"):
        resolve_model(f"{run.id}/teecher")
    for name in ("student", "teacher"):
        run.path(name).mkdir()
        run.path(name, "config.json").write_text("{}")
    assert resolve_model(run.id) == resolve_model("shop/student") == f"hf:{run.path('student')}"
    assert run.model_name("teacher") == f"hf:{run.path('teacher')}"
    assert run.contestants() == ["teacher", "student", "untouched"]


def test_the_untouched_model_of_a_domain_teacher_is_what_it_was_adapted_from() -> None:
    teacher, base = "bundled:fernhill-support-135m", "bundled:smollm2-135m-instruct"
    for student in ("teacher", teacher):
        run = opened("shop", teacher_model=teacher, student_model=student)
        assert (run.model_name("teacher"), run.model_name("untouched")) == (teacher, base)
    uncut = opened("shop", teacher_model=teacher, student_model="teacher", student={})
    assert uncut.contestants() == ["teacher", "untouched"]
    assert opened("shop", student={}).contestants() == ["teacher"]


def test_the_state_is_written_stage_by_stage() -> None:
    run = opened("shop")
    assert (run.state, run.manifest) == ({}, None)
    run.finish_stage("prepare", turns=3)
    run.finish_stage("generate", seconds=1.5)
    assert Run(run.folder).state == {"prepare": {"turns": 3}, "generate": {"seconds": 1.5}}


HOLD = """
import sys, time
from pathlib import Path
from distiller.runs import Run
with Run(Path(sys.argv[1])).locked():
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_run_is_worked_on_by_one_process() -> None:
    run = opened("shop")
    assert state_of(run) == "stopped"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run.folder)], cwd=PROJECT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert state_of(run) == "running"
        with pytest.raises(RunError, match="being worked on by another process"), run.locked():
            pass
    finally:
        holder.kill()
        holder.wait()
    assert state_of(run) == "stopped"  # a killed process leaves no lock behind
    with run.locked():
        pass
    run.path("manifest.json").write_text("{}")
    assert state_of(run) == "complete"


def test_rows_of_the_list() -> None:
    assert job_rows() == []
    opened("old", 100)
    run = opened("new")
    run.finish_stage("train", seconds=2.0, best_epoch=2, validation=[{"loss": 3.0}, {"loss": 2.5}])
    first, second = job_rows()
    assert (first["run"], first["state"], first["stages_done"]) == (run.id, "stopped", "train")
    assert (first["seconds"], first["validation_loss"]) == (2.0, 2.5)
    assert (second["stages_done"], second["validation_loss"]) == ("none", None)


def test_a_run_of_another_version_does_not_hide_the_others() -> None:
    run = opened("new")
    broken = opened("old", 100)
    broken.path("job.yaml").write_text(broken.path("job.yaml").read_text() + "a_field_of_tomorrow: 1\n")
    assert run.id in [row["run"] for row in job_rows()]


def test_hashes_follow_the_content(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    (folder / "a").write_text("1")
    before = folder_hash(folder)
    assert folder_hash(folder) == before
    (folder / "a").write_text("2")
    assert folder_hash(folder) != before
    (folder / "a").rename(folder / "b")
    assert len(file_hash(folder / "b")) == 64
    assert json.dumps(before)
