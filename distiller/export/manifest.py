"""The `manifest.json` of an export: what each thing in the folder was made of, its size and hash, how it compares with the
original; and of a run's model the job, so that whoever has the folder alone knows what the model has to be told.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distiller.job import DistillationJob, parse_job
from distiller.schema import write_text

if TYPE_CHECKING:
    from distiller.export.source import Source

MANIFEST = "manifest.json"


def entries(out: Path) -> dict[str, Any]:
    """Name → what is known of it; empty where nothing was exported to `out`."""
    path = out / MANIFEST
    return json.loads(path.read_text("utf-8"))["exports"] if path.exists() else {}


def record(out: Path, source: Source, name: str, entry: dict[str, Any]) -> None:
    """Notes `entry`, and forgets what is not in the folder any more."""
    exports = {n: e for n, e in entries(out).items() if (out / n).exists()} | {name: entry}
    value: dict[str, Any] = {"source": source.published, "exports": exports}
    if run := source.run:
        made = run.manifest or {"stages": run.state}
        value |= {"source": f"run:{run.id}/{source.contestant}", "contestant": source.contestant}
        value |= {"job": run.job.model_dump(mode="json"), "run": {k: v for k, v in made.items() if k != "exports"}}
    write_text(out / MANIFEST, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def told_in(folder: Path) -> tuple[str, DistillationJob] | None:
    """(contestant, job) of the run's model that was exported to `folder`; None where none was.

    Raises JobError where the job is of another version.
    """
    path = folder / MANIFEST
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(value, dict) or "job" not in value or "contestant" not in value:
        return None
    return value["contestant"], parse_job(value["job"], str(path), check_files=False)
