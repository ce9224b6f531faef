"""Job files: every one that ships loads, every mistake is named with what would be right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from distiller.errors import JobError
from distiller.job import DistillationJob, dump_job, field_table, load_job, parse_job
from tests.conftest import PROJECT

CONFIGS = sorted(p for p in (PROJECT / "configs").rglob("*") if p.suffix in {".yaml", ".yml"})
SECTIONS = [row[0] for row in field_table() if "." in row[0]]
# `training` at the top may as well mean training_data.
ELSEWHERE = [k for k in SECTIONS if k.split(".")[-1] not in DistillationJob.model_fields and "sample." not in k]


def values(**more: Any) -> dict[str, Any]:
    return {
        "name": "a-job",
        "teacher_model": "hf:teacher",
        "student_model": "hf:student",
        "training_data": "train.jsonl",
        "validation_data": "validation.jsonl",
        **more,
    }


def job(**more: Any) -> DistillationJob:
    return parse_job(values(**more), check_files=False)


def refusal(**more: Any) -> str:
    with pytest.raises(JobError) as caught:
        job(**more)
    return str(caught.value)


def test_there_are_job_files() -> None:
    assert CONFIGS


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: str(p.relative_to(PROJECT / "configs")))
def test_every_job_file_that_ships_loads(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    wanted = load_job(path, check_files=False)
    # Public data, which a job file may name, is fetched by whoever runs it; what lies in the project has to be there.
    ours = Path("datasets") in wanted.training_data.parents
    assert load_job(path, check_files=ours).name
    assert ours or str(path.relative_to(PROJECT)) in (PROJECT / "docs" / "results.md").read_text("utf-8")


# Unknown keys


@pytest.mark.parametrize(
    ("more", "hint"),
    [
        ({"techer_model": "hf:x"}, "unknown key 'techer_model'. Did you mean 'teacher_model'?"),
        ({"hyperparameters": {"learning_rat": 1}}, "Did you mean 'hyperparameters.learning_rate'?"),
        ({"student": {"layer": 4}}, "unknown key 'student.layer'. Did you mean 'student.layers'?"),
        ({"teacher_price": {"input_per_millon": 1, "output_per_million": 1}}, "'teacher_price.input_per_million'"),
        ({"teacher_sampling": {"temprature": 1}}, "Did you mean 'teacher_sampling.temperature'?"),
        ({"sample": {"xyzzy": 1}}, "Known here: training, validation, test, turns."),
    ],
)
def test_an_unknown_key_names_the_nearest(more: dict[str, Any], hint: str) -> None:
    assert hint in refusal(**more)


@pytest.mark.parametrize("key", ELSEWHERE)
def test_a_key_of_a_section_given_at_the_top_names_its_section(key: str) -> None:
    leaf = key.rsplit(".", maxsplit=1)[-1]
    homes = [other for other in SECTIONS if other.split(".")[-1] == leaf]
    words = refusal(**{leaf: 1})
    assert f"unknown key {leaf!r}" in words
    assert any(f"{home!r}" in words for home in homes), words


def test_a_key_of_the_top_given_in_a_section_names_the_top() -> None:
    assert "'seed'" in refusal(hyperparameters={"seed": 1})


def test_several_mistakes_are_told_at_once() -> None:
    words = refusal(seed=-1, hyperparameters={"batch_size": 0}, nonsense_xyz=1)
    assert len(words.splitlines()) == 3


def test_a_wrong_value_is_shown_with_its_key() -> None:
    words = refusal(hyperparameters={"batch_size": "many"})
    assert "hyperparameters.batch_size" in words
    assert "'many'" in words


def test_a_missing_key() -> None:
    given = values()
    del given["teacher_model"]
    with pytest.raises(JobError, match=r"f\.yaml: teacher_model is missing"):
        parse_job(given, "f.yaml", check_files=False)


@pytest.mark.parametrize("name", ["", "Upper", "a/b", "../up", ".hidden", "x" * 80])
def test_a_name_that_is_no_folder(name: str) -> None:
    assert "name" in refusal(name=name)


# Files


def write_job(tmp_path: Path, **more: Any) -> Path:
    for name in ("train.jsonl", "validation.jsonl"):
        (tmp_path / name).write_text('{"messages": [{"role": "user", "content": "Hi"}]}\n')
    files = {"training_data": str(tmp_path / "train.jsonl"), "validation_data": str(tmp_path / "validation.jsonl")}
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(values(**files, **more)))
    return path


def test_set_overrides_top_nested_and_lists(tmp_path: Path) -> None:
    path = write_job(tmp_path, hyperparameters={"num_epochs": 9})
    overrides = ["hyperparameters.num_epochs=2", "student.layers=[0, 3]", "seed=4", "name=other"]
    loaded = load_job(path, overrides)
    assert (loaded.hyperparameters.num_epochs, loaded.student.layers, loaded.seed) == (2, [0, 3], 4)
    assert loaded.name == "other"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("seed", "expected KEY=VALUE"),
        ("=3", "expected KEY=VALUE"),
        ("seed.x=1", "'seed' is a value, not a section"),
        ("sead=1", "Did you mean 'seed'?"),
        ("hyperparameters.epochs=1", "hyperparameters.num_epochs"),
    ],
)
def test_set_in_another_form(tmp_path: Path, override: str, words: str) -> None:
    with pytest.raises(JobError) as caught:
        load_job(write_job(tmp_path, seed=1), [override])
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a: [1,\n b: }", r"job\.yaml:2: not YAML"),
        (b"- 1\n", "expected keys and values, found list"),
        (b"", "expected keys and values"),
        (b"name: K\xf6ln\n", r"job\.yaml"),
    ],
)
def test_a_file_that_is_no_job(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(content)
    with pytest.raises(JobError, match=words):
        load_job(path)


def test_a_job_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"cannot be read \(No such file.*configs/"):
        load_job(tmp_path / "absent.yaml")


def test_data_that_is_not_there_is_named_before_anything_runs(tmp_path: Path) -> None:
    path = write_job(tmp_path)
    with pytest.raises(JobError, match=r"test_data: there is no file nowhere\.jsonl"):
        load_job(path, ["test_data=nowhere.jsonl"])
    with pytest.raises(JobError, match=r"retrieval\.policies: there is no file nowhere\.md"):
        load_job(path, ["retrieval.policies=nowhere.md"])
    with pytest.raises(JobError, match=r"retrieval\.questions: there is no file nowhere\.jsonl"):
        load_job(path, ["retrieval.questions=nowhere.jsonl"])
    assert load_job(path, ["test_data=nowhere.jsonl"], check_files=False).test_data == Path("nowhere.jsonl")


# What cannot work is refused before it starts

SEQUENCE = {"hyperparameters": {"loss": "sequence"}}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"student_model": "openai:gpt-4@http://x"}, "has no weights to train"),
        ({"student_model": "recorded:x.jsonl"}, "has no weights to train"),
        ({"teacher_model": "openai:gpt-4@http://x"}, "hyperparameters.loss: sequence"),
        ({"teacher_model": "recorded:x.jsonl"}, "hyperparameters.loss: sequence"),
        (
            {"teacher_model": "openai:x@http://x", "teacher_adaptation": {"enabled": True}, **SEQUENCE},
            "teacher_adaptation needs a local teacher",
        ),
        ({"teacher_adaptation": {"enabled": True, "quote_policies": True}}, "quote_policies needs the file"),
        ({"curation": {"quote_policies": True}}, "curation.quote_policies needs the file"),
        ({"retrieval": {"policies": "p.md", "complete": True}}, "set retrieval.questions"),
        ({"hyperparameters": {"lora_rank": 4, "quantization": "q4_0"}}, "not both"),
        (
            {"teacher_model": "recorded:x.jsonl", "retrieval": {"policies": "p.md"}, **SEQUENCE},
            "stored replies are found by the bare question",
        ),
        ({"teacher_model": "gpt-4"}, "is no model name"),
        ({"teacher_model": "ftp:gpt-4"}, "is no model name"),
        ({"student_model": "hf:"}, "is no model name"),
        ({"teacher_adaptation": {"loss": "forward_kl"}}, "teacher_adaptation.loss"),
        ({"hyperparameters": {"learning_rate": float("nan")}}, "hyperparameters.learning_rate"),
    ],
)
def test_what_cannot_work_is_refused(more: dict[str, Any], words: str) -> None:
    assert words in refusal(**more)


def test_an_api_teacher_with_the_sequence_loss_is_accepted() -> None:
    assert job(teacher_model="openai:deepseek-chat@https://api.deepseek.com", **SEQUENCE).teacher_price is None


# The hash


def test_the_hash_follows_the_job_and_the_content_of_its_files(tmp_path: Path) -> None:
    path = write_job(tmp_path)
    before = load_job(path).hash()
    assert load_job(path).hash() == before
    assert load_job(path, ["seed=1"]).hash() != before
    data = tmp_path / "validation.jsonl"
    same = data.read_text()
    data.write_text(same + same.replace("Hi", "Ho"))
    assert load_job(path).hash() != before
    data.write_text(same)
    assert load_job(path).hash() == before


def test_the_hash_follows_the_policies(tmp_path: Path) -> None:
    policies = tmp_path / "policies.md"
    path = write_job(tmp_path, retrieval={"policies": str(policies)})
    policies.write_text("## A\nOne")
    before = load_job(path).hash()
    policies.write_text("## A\nTwo")
    assert load_job(path).hash() != before


def test_a_dumped_job_loads_as_the_same_job(tmp_path: Path) -> None:
    first = job(student={"layers": [0, 2]}, teacher_price={"input_per_million": 1, "output_per_million": 2})
    path = tmp_path / "dumped.yaml"
    path.write_text(dump_job(first), encoding="utf-8")
    assert load_job(path, check_files=False) == first


def test_every_field_has_a_meaning_and_is_listed_once() -> None:
    rows = field_table()
    assert [row for row in rows if not row[3]] == []
    keys = [row[0] for row in rows]
    assert len(set(keys)) == len(keys)
    assert {"teacher_model", "hyperparameters.kd_weight", "teacher_price.input_per_million"} <= set(keys)
