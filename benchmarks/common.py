"""The form of a result: `results/NAME.json` with the machine, the commit, the command and the figures."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from distiller.runs import now
from distiller.schema import write_text
from distiller.tables import print_table
from evals.measure import machine

RESULTS = Path(__file__).with_name("results")
#: What long benchmarks keep, to go on with after they were stopped.
KEPT = Path(__file__).with_name("kept")


@dataclass(frozen=True)
class Figure:
    """`value` is what stands against the `goal`; `runs` are the single measurements it was taken from."""

    value: float
    unit: str
    goal: float
    runs: Sequence[float]
    higher_is_better: bool = False

    @property
    def met(self) -> bool:
        return self.value >= self.goal if self.higher_is_better else self.value <= self.goal


def write_result(name: str, command: str, figures: dict[str, Figure]) -> Path:
    value = {"machine": machine(), "commit": commit(), "date": now(), "command": command}
    path = RESULTS / f"{name}.json"
    figures_as_json = {key: asdict(figure) for key, figure in figures.items()}
    write_text(path, json.dumps(value | {"figures": figures_as_json}, indent=1) + "\n")
    return path


def print_results() -> None:
    """One row a figure of every stored result."""
    rows = []
    for path in sorted(RESULTS.glob("*.json")):
        for key, stored in json.loads(path.read_text("utf-8"))["figures"].items():
            figure = Figure(**stored)
            bound = "at least" if figure.higher_is_better else "at most"
            row = {"benchmark": path.stem, "figure": key, "value": f"{figure.value:,g} {figure.unit}"}
            rows.append(row | {"goal": f"{bound} {figure.goal:,g}", "met": "yes" if figure.met else "NO"})
    print_table(rows, as_json=False, empty="No results yet: python -m benchmarks", title="Benchmarks")


def commit() -> str:
    """With a + where the tree has changes that are not committed."""
    done = subprocess.run(
        ["git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+"],
        check=False, capture_output=True, text=True, cwd=RESULTS.parent,
    )  # fmt: skip
    return done.stdout.strip() or "unknown"
