"""The form writes into the YAML and reads from it, and says no in the job's own words."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from distiller.errors import JobError
from distiller.job import field_table, load_job
from ui.access import AccessError
from ui.job_form import (
    QUICKSTART,
    VISITOR_LIMITS,
    all_fields,
    bounded,
    job_of,
    presets,
    problem_in,
    values_of,
    with_value,
)

TEXT = QUICKSTART.read_text("utf-8")


def test_every_shipped_job_is_shown_and_unchanged_by_its_own_values() -> None:
    for path in presets().values():
        text = path.read_text("utf-8")
        for field, value in zip(all_fields(), values_of(text), strict=True):
            text = with_value(text, field.key, value)
        known = load_job(path, check_files=False).model_dump()
        assert known == type(load_job(path, check_files=False)).model_validate(yaml.safe_load(text)).model_dump()


def test_every_field_is_one_of_the_job_and_has_words() -> None:
    known = {row[0] for row in field_table()}
    keys = [field.key for field in all_fields()]
    assert set(keys) <= known
    assert set(VISITOR_LIMITS) <= known
    assert len(keys) == len(set(keys))
    assert all(field.help and field.label for field in all_fields())


def test_a_value_goes_in_and_a_default_goes_out() -> None:
    text = with_value(TEXT, "hyperparameters.kd_weight", 0.25)
    assert job_of(text).hyperparameters.kd_weight == 0.25
    text = with_value(text, "hyperparameters.kd_weight", 0.9)
    assert "kd_weight" not in text
    assert yaml.safe_load(with_value(text, "student.layers", "[0, 3, 5]"))["student"]["layers"] == [0, 3, 5]
    assert yaml.safe_load(with_value(text, "student.layers", "7"))["student"]["layers"] == 7
    assert job_of(with_value(text, "student.layers", "")).student.layers is None
    assert "sample" not in yaml.safe_load(
        with_value("name: a\nsample: {turns: 3}\n", "sample.turns", 0)
    )  # an empty section says nothing


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("a: [1", "line"),
        (TEXT.replace("name: quickstart", "nmae: quickstart"), "Did you mean 'name'"),
        (with_value(TEXT, "hyperparameters.num_epochs", 0), "num_epochs"),
        (with_value(TEXT, "training_data", "absent.jsonl"), "absent.jsonl"),
        (with_value(TEXT, "teacher_model", "gpt"), "no model name"),
    ],
)
def test_what_is_wrong_is_said_in_words(text: str, words: str) -> None:
    assert words in problem_in(text)


def test_a_field_cannot_be_written_into_what_is_no_yaml() -> None:
    with pytest.raises(JobError, match="line 1"):
        with_value("a: [1", "seed", 1)


def test_a_visitor_may_start_the_quickstart_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mine(path: Path) -> bool:
        return path.parent == tmp_path

    monkeypatch.chdir(QUICKSTART.parents[1])
    bounded(job_of(TEXT), mine)
    (tmp_path / "own.jsonl").write_text('{"id": "a", "messages": [{"role": "user", "content": "Hi"}]}\n')
    bounded(job_of(with_value(TEXT, "training_data", str(tmp_path / "own.jsonl"))), mine)
    refused = {
        "training_data": "/etc/hostname",
        "retrieval.policies": "/etc/hostname",
        "teacher_model": "hf:someone/some-model",
        "student_model": "hf:someone/some-model",
        "sample.training": 151,
        "sample.turns": 0,
        "teacher_sampling.max_tokens": 4000,
        "hyperparameters.num_epochs": 900,
        "teacher_adaptation.enabled": True,
    }
    for key, value in refused.items():
        job = job_of(with_value(TEXT, key, value))
        with pytest.raises(AccessError):
            bounded(job, mine)
    elsewhere = yaml.safe_load(TEXT) | {"evaluation": {"embedding_model": "hf:someone/else"}}
    with pytest.raises(AccessError, match="embedding_model"):
        bounded(job_of(yaml.safe_dump(elsewhere)), mine)
