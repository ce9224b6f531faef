"""Adapters that ship: the best rank, loadable by peft, the same teacher as the run's own."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from distiller.adapt import adapt
from distiller.errors import JobError
from distiller.job import DistillationJob, parse_job
from distiller.runs import find_run, list_runs
from distiller.schema import write_jsonl
from tests.tiny import largest_difference, talks, weights_of


def job(folder: Path, model: Path, **adaptation: Any) -> DistillationJob:
    write_jsonl(folder / "train.jsonl", talks(6, turns=2))
    write_jsonl(folder / "validation.jsonl", talks(2, turns=2, prefix="v"))
    return parse_job(
        {
            "name": "domain",
            "teacher_model": f"hf:{model}",
            "student_model": f"hf:{model}",
            "training_data": str(folder / "train.jsonl"),
            "validation_data": str(folder / "validation.jsonl"),
            "teacher_adaptation": {"enabled": True, "num_epochs": 2, "batch_size": 2, "learning_rate": 1e-2}
            | adaptation,
            "precision": "float32",
        }
    )


def test_the_rank_with_the_lowest_validation_loss_ships(tmp_path: Path, tiny_model: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    out = tmp_path / "adapters"
    manifest = adapt(job(tmp_path, tiny_model), out, [1, 8], quiet=True)
    by_rank = manifest["validation_loss_by_rank"]
    assert str(manifest["rank"]) == min(by_rank, key=by_rank.get)
    assert json.loads((out / "manifest.json").read_text("utf-8")) == manifest
    assert {run.job.teacher_adaptation.lora_rank for run in list_runs()} == {1, 8}

    best = next(run for run in list_runs() if run.job.teacher_adaptation.lora_rank == manifest["rank"])
    base: Any = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    merged: Any = PeftModel.from_pretrained(base, str(out)).merge_and_unload()
    state = {k: v for k, v in merged.state_dict().items() if k != "lm_head.weight"}  # tied
    assert largest_difference(state, weights_of(find_run(best.id).path("teacher"))) < 0.01
    assert largest_difference(state, weights_of(tiny_model)) > 0.01

    before, began = (out / "adapter_model.safetensors").read_bytes(), time.perf_counter()
    again = adapt(job(tmp_path, tiny_model), out, [1, 8], quiet=True)
    assert time.perf_counter() - began < 2
    assert (out / "adapter_model.safetensors").read_bytes() == before
    assert again["sha256"] == manifest["sha256"]


def test_a_job_that_adapts_nothing_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    with pytest.raises(JobError, match="'domain' adapts no teacher"):
        adapt(job(tmp_path, tiny_model, enabled=False), tmp_path / "out", quiet=True)
    with pytest.raises(JobError, match=r"trains all weights.*lora_rank, or --ranks"):
        adapt(job(tmp_path, tiny_model, lora_rank=None), tmp_path / "out", quiet=True)
