"""What models are called where they stand next to each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: What a person calls the parts of a run.
ROLE_LABELS = {
    "student": "Student",
    "teacher": "Teacher",
    "baseline": "Undistilled baseline",
    "reference_trained": "Trained on references alone",
    "untouched": "Untrained model",
}


def labels(rows: Sequence[dict[str, Any]], roles: Mapping[str, str] | None = None) -> dict[str, str]:
    """Model → what it is called among `rows`: its role, and its run where there are several; any other by the short of its name.

    `roles`: what to call the roles by.
    """
    several = len({run_of(row) for row in rows} - {None}) > 1
    short = [_label(row, several, roles or {}) for row in rows]
    return {
        row["model"]: row["model"] if short.count(name) > 1 else name for row, name in zip(rows, short, strict=True)
    }


def _label(row: dict[str, Any], with_run: bool, roles: Mapping[str, str]) -> str:
    if run := run_of(row):
        role = row["role"] or row["model"].rpartition("/")[2]
        role = roles.get(role, role)
        return f"{role} · {run}" if with_run else role
    # openai:MODEL@BASE_URL, hf:OWNER/MODEL or hf:FOLDER, bundled:NAME
    return row["model"].partition(":")[2].partition("@")[0].rstrip("/").rpartition("/")[2] or row["model"]


def run_of(row: dict[str, Any]) -> str | None:
    scheme, _, rest = row["model"].partition(":")
    return rest.partition("/")[0] if scheme == "run" else None
