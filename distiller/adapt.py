"""Adapters for a domain teacher: low-rank, small enough to ship, their rank the job's or chosen by the validation loss.

Each rank is a run of its own that ends at the adapted teacher, so a stop loses nothing and a second
call does no work again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distiller.chat.bundled import ADAPTER_WEIGHTS, published_name
from distiller.errors import JobError
from distiller.job import DistillationJob
from distiller.pipeline import run_job
from distiller.runs import file_hash, now, versions
from distiller.schema import write_text
from distiller.training.adapters import ADAPTER


def adapt(
    job: DistillationJob, out: Path, ranks: Sequence[int] | None = None, *, quiet: bool = False
) -> dict[str, Any]:
    """Adapts the job's teacher with each of `ranks` (the job's own, if none are given); the adapters with the lowest
    validation loss go to `out`.

    Gives the manifest that is written beside them. Raises JobError where the job adapts no teacher, or names no rank.
    """
    if not job.teacher_adaptation.enabled:
        raise JobError(f"Job {job.name!r} adapts no teacher. Set teacher_adaptation.enabled: true.")
    wanted: Sequence[int | None] = ranks or [job.teacher_adaptation.lora_rank]
    if None in wanted:
        raise JobError(
            f"Job {job.name!r} trains all weights of its teacher. Set teacher_adaptation.lora_rank, or --ranks."
        )
    found = []
    for rank in wanted:
        settings = job.teacher_adaptation.model_copy(update={"lora_rank": rank})
        run = run_job(job.model_copy(update={"teacher_adaptation": settings}), quiet=quiet, until="adapt_teacher")
        figures = run.state["adapt_teacher"]
        found.append((min(epoch["loss"] for epoch in figures["validation"]), rank, run, figures))
    _, rank, run, figures = min(found, key=lambda entry: entry[:2])
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(run.path("teacher", ADAPTER, ADAPTER_WEIGHTS), out / ADAPTER_WEIGHTS)
    config = json.loads(run.path("teacher", ADAPTER, "adapter_config.json").read_text("utf-8"))
    # The folder on this machine that the weights came from says nothing to anyone else.
    config["base_model_name_or_path"] = published_name(job.teacher_model)
    write_text(out / "adapter_config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")
    manifest = {
        "base": job.teacher_model,
        "made": now(),
        "rank": rank,
        "validation_loss_by_rank": {str(r): loss for loss, r, _, _ in found},
        "best_epoch": figures["best_epoch"],
        "training_seconds": figures["training_seconds"],
        "conversations": {split: run.state["prepare"][split]["conversations"] for split in ("train", "validation")},
        "data": {name: hashed for name, hashed in run.state["prepare"]["sha256"].items() if name != "test_data"},
        "versions": versions(),
        "bytes": (out / ADAPTER_WEIGHTS).stat().st_size,
        "sha256": file_hash(out / ADAPTER_WEIGHTS),
    }
    write_text(out / "manifest.json", json.dumps(manifest, indent=2) + "\n")
    return manifest
