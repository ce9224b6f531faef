"""The headline: the student that ships beside the teacher it was distilled from, both with what they get in service.

On the whole test set of the support desk: the facts they state, greedy; their times, one stream, each in its default engine,
the lookup of policy lines included; their weights and the memory of the serving process; and by the load test how many users
each carries at the p95 that the teacher has with one, and what a thousand replies cost there. Replies and levels of load are
kept in `benchmarks/kept/`, by the student's file, and the same command goes on with what is missing of them.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks.common import KEPT, Figure, write_result
from distiller.chat import OpenOptions
from distiller.chat.bundled import exported_file
from distiller.job import Evaluation
from distiller.runs import file_hash
from distiller.schema import read_conversations
from evals.contestants import Contestant, by_name, in_service
from evals.evaluate import evaluate_models
from evals.load import Plan, figures_at, load_test
from evals.load_users import LoadSettings
from evals.measure import measure

ROOT = Path(__file__).parents[1]
STUDENT = "bundled:fernhill-student"
TEST = ROOT / "datasets" / "helpdesk" / "test.jsonl"
MAX_TOKENS = 64
ROUNDS, TURNS = 3, 48
USERS, MIN_REPLIES = (1, 4, 16, 32), 60


def main() -> None:
    student, file = by_name(STUDENT), exported_file(STUDENT.removeprefix("bundled:"))
    assert student.job is not None, "it ships with its job"
    assert file is not None, "it ships as a file"
    folder = KEPT / f"headline-{file_hash(file)[:12]}"
    teacher = in_service(student.job.teacher_model, student.job)
    rounds = [
        {c.name: measure(c, TEST, TURNS, MAX_TOKENS, OpenOptions()) for c in (teacher, student)} for _ in range(ROUNDS)
    ]
    rows = quality(teacher, student, folder / "quality")
    report = load(teacher, student, folder / "load")
    carried = report["equal_p95"]["carried"]
    peaks = [figures_at(report, c.name, carried[c.name]["users"])["peak_memory_mb"] for c in (teacher, student)]

    times = [cut(*(statistics.median(of[c.name]["latency_s"]) for c in (teacher, student))) for of in rounds]
    weights = [rounds[0][c.name]["weights_mb"] for c in (teacher, student)]
    bfloat16 = rounds[0][teacher.name]["parameters"] * 2 / 1e6
    kept = rows[student.name]["accuracy"] / rows[teacher.name]["accuracy"]
    figures = {
        "response_time_cut": Figure(statistics.median(times), "of 1", 0.85, times, higher_is_better=True),
        "weights_cut": share(cut(bfloat16, weights[1]), 0.95),
        "weights_cut_vs_gguf": share(cut(*weights), 0.90),
        "peak_memory_cut": share(cut(*peaks), 0.60),
        "accuracy_kept": share(kept, 0.95),
        "cost_cut": share(carried[student.name]["cost_cut"], 0.85),
        "users_factor": Figure(
            carried[student.name]["users_factor"],
            "times",
            15,
            [carried[student.name]["users_factor"]],
            higher_is_better=True,
        ),
    }
    write_result("headline", "python -m benchmarks.headline", figures)


def quality(teacher: Contestant, student: Contestant, folder: Path) -> dict[str, dict[str, Any]]:
    """Model → its row of the evaluation's report."""
    settings = Evaluation(max_tokens=MAX_TOKENS, timed_turns=1)
    path = evaluate_models([teacher, student], read_conversations(TEST), folder, settings, OpenOptions())
    return {row["model"]: row for row in json.loads(path.read_text("utf-8"))["rows"]}


def load(teacher: Contestant, student: Contestant, folder: Path) -> dict[str, Any]:
    """The load test's report, the teacher being the one that others are held to."""
    plan = Plan(users=USERS, find_users=True, again_if_disturbed=True)
    settings = LoadSettings(max_tokens=MAX_TOKENS, min_replies=MIN_REPLIES)
    path = load_test([teacher, student], read_conversations(TEST), folder, settings, plan, OpenOptions())
    return json.loads(path.read_text("utf-8"))


def cut(before: float, after: float) -> float:
    return 1 - after / before


def share(value: float, goal: float) -> Figure:
    return Figure(value, "of 1", goal, [value], higher_is_better=True)


if __name__ == "__main__":
    main()
