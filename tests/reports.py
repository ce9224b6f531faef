"""Reports without an evaluation: as `evals.evaluate` writes them, cut to what a leaderboard reads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distiller.schema import write_text
from evals.compare import relate
from evals.leaderboard import REPORT_KEYS
from evals.statistics import clustered_share_interval

#: (conversation, turn from 1, intent) of a small data set.
TURNS = [("c1", 1, "refund"), ("c1", 2, "refund"), ("c2", 1, "refund"), ("c3", 1, "delivery"), ("c3", 2, "delivery")]


def make_report(
    folder: Path,
    correct: Mapping[str, Sequence[Any]],
    *,
    turns: Sequence[tuple[str, int, str | None]] = TURNS,
    data: str = "data",
    created: str = "2026-01-01T00:00:00Z",
    **figures: Any,
) -> Path:
    """Writes `folder`/report.json: `correct` by model, one a turn. `figures` go into every row, grown by its place."""
    rows = []
    for place, (model, judged) in enumerate(correct.items()):
        known = [k for k, value in enumerate(judged) if value is not None]
        values = np.array([float(bool(judged[k])) for k in known])
        row: dict[str, Any] = dict.fromkeys(REPORT_KEYS) | {"model": model, "n": len(known)}
        row["role"] = model.rpartition("/")[2] if model.startswith("run:") else None
        row |= {key: value * (place + 1) for key, value in figures.items()}
        row |= {"accuracy": float(values.mean()), "accuracy_kind": "facts", "bleu": 10.0, "bleu_ci": [8.0, 12.0]}
        row["accuracy_ci"] = list(clustered_share_interval(values, [turns[k][0] for k in known]))
        rows.append(row)
    relate(rows)
    report = {
        "created": created,
        "data": {
            "file": f"{data}.jsonl",
            "sha256": hashlib.sha256(data.encode()).hexdigest(),
            "conversations": len({conversation for conversation, _, _ in turns}),
            "turns": len(turns),
        },
        "accuracy_kind": "facts",
        "rows": rows,
        "conversations": [
            {
                "conversation": conversation,
                "turn": turn,
                "intent": intent,
                "replies": {model: {"correct": judged[k]} for model, judged in correct.items()},
            }
            for k, (conversation, turn, intent) in enumerate(turns)
        ],
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "report.json"
    write_text(path, json.dumps(report))
    return path
