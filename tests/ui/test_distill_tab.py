"""What a visitor of a public page may do with runs, by the handlers themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distiller.job import parse_job
from distiller.runs import Run, list_runs, open_run_of
from distiller.schema import write_jsonl
from tests.tiny import talks
from tests.ui.requests import request
from ui.access import claim, visitor_of
from ui.distill_tab import first_shown, offered_first, resume, show, start, stop
from ui.job_form import QUICKSTART, with_value
from ui.models import UNTRAINED

TEXT = QUICKSTART.read_text("utf-8")


@pytest.fixture(autouse=True)
def public(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILLER_PUBLIC", "1")
    monkeypatch.setenv("DISTILLER_OWNERS", "ada")
    monkeypatch.chdir(QUICKSTART.parents[1])


@pytest.fixture
def run(tmp_path: Path) -> Run:
    write_jsonl(tmp_path / "data.jsonl", talks(3))
    value: dict[str, Any] = {"name": "shop", "teacher_model": UNTRAINED, "student_model": UNTRAINED}
    data = str(tmp_path / "data.jsonl")
    return open_run_of(parse_job(value | {"training_data": data, "validation_data": data}))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("teacher_model", "openai:large@http://10.0.0.9/v1", "owner of this page"),
        ("sample.training", 0, "too much"),
        ("training_data", "/etc/hostname", "visitors may use"),
        ("hyperparameters.num_epochs", 0, "num_epochs"),
    ],
)
def test_a_visitor_starts_no_more_than_the_quickstart(key: str, value: Any, words: str) -> None:
    text = with_value(TEXT, key, value)
    if key == "teacher_model":
        text = with_value(text, "hyperparameters.loss", "sequence")
        text = with_value(text, "student_model", UNTRAINED)
    shown = start(text, request())
    assert words in shown[1]
    assert list_runs() == []


def test_a_visitor_stops_and_resumes_own_runs_alone(run: Run) -> None:
    visitor, other, owner = request("10.0.0.1"), request("10.0.0.2"), request(login="ada")
    for handler in (stop, resume):
        assert "for the owner of this page" in handler(run.id, visitor)[0]
    claim(run, visitor_of(visitor), private=True)
    assert stop(run.id, visitor)[0] == ""
    assert "for the owner of this page" in stop(run.id, other)[0]
    assert stop(run.id, owner)[0] == ""


def test_a_private_run_is_shown_to_its_visitor_alone(run: Run) -> None:
    visitor, other = request("10.0.0.1"), request("10.0.0.2")
    claim(run, visitor_of(visitor), private=True)
    assert first_shown(visitor)[0] == run.id
    assert first_shown(other)[0] is None
    assert run.id not in str(show(run.id, other))


def test_the_first_student_is_offered_until_there_is_one(run: Run) -> None:
    row, words, _ = offered_first(request())
    assert row.visible
    assert "The models that ship meet here" in words
    run.path("manifest.json").write_text("{}")
    assert not offered_first(request())[0].visible
