"""Contestants next to each other: ranks, paired tests, and what they allow to be said, in words."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from evals.scoring import Item, Scored
from evals.statistics import holm, paired_bootstrap, paired_permutation, ratio_interval, shared_ranks

METRICS = ("accuracy", "embedding_similarity", "bleu", "chrf")
METRIC_WORDS = {
    "accuracy": "accuracy",
    "embedding_similarity": "embedding similarity",
    "bleu": "BLEU",
    "chrf": "chrF",
}


def relate(rows: Sequence[dict[str, Any]]) -> None:
    """Fills rank, retention and improvement: what the accuracy of a row of a report says next to the others'."""
    judged = [row for row in rows if row["accuracy"] is not None]
    accuracy = {role: row["accuracy"] for role, row in only_of_their_role(rows).items() if row["accuracy"] is not None}
    for row, rank in zip(judged, shared_ranks([tuple(row["accuracy_ci"]) for row in judged]), strict=True):
        row["rank"] = rank
        if accuracy.get("teacher"):
            row["retention"] = row["accuracy"] / accuracy["teacher"]
        if "baseline" in accuracy:
            row["improvement"] = row["accuracy"] - accuracy["baseline"]


def add_intervals(rows: Sequence[dict[str, Any]], scored: dict[str, Scored], pairs: Sequence[dict[str, Any]]) -> None:
    """Fills retention_ci and improvement_ci: on the same resamples of conversations for both models."""
    by_role = only_of_their_role(rows)
    teacher, baseline = by_role.get("teacher"), by_role.get("baseline")
    for row in rows:
        if row["retention"] is not None and teacher is not None and row is not teacher:
            both = (scored[name].clustered["accuracy"] for name in (row["model"], teacher["model"]))
            interval = ratio_interval(*both)
            row["retention_ci"] = list(interval) if interval else None
        if row["improvement"] is not None and baseline is not None and row is not baseline:
            pair = next(
                p for p in pairs if p["metric"] == "accuracy" and {p["a"], p["b"]} == {row["model"], baseline["model"]}
            )
            sign = 1 if pair["a"] == row["model"] else -1
            row["improvement_ci"] = sorted(sign * end for end in pair["ci"])


def comparisons(items: Sequence[Item], scored: dict[str, Scored], roles: dict[str, str | None]) -> list[dict[str, Any]]:
    """Every pair of models on every metric: difference, 95% interval, p, and p adjusted over all pairs (Holm).

    Accuracy by permutation, the others by bootstrap, both over conversations.
    """
    rows: list[dict[str, Any]] = []
    for metric in METRICS:
        found: list[dict[str, Any]] = []
        for a, b in combinations(scored, 2):
            if metric not in scored[a].clustered or metric not in scored[b].clustered:
                continue
            difference, interval, p = paired_bootstrap(scored[a].clustered[metric], scored[b].clustered[metric])
            if metric == "accuracy":
                clusters = [items[k].conversation.id for k in scored[a].judged]
                p = paired_permutation(scored[a].correct, scored[b].correct, clusters)
            found.append(
                {
                    "metric": metric,
                    "a": a,
                    "b": b,
                    "roles": [roles[a], roles[b]],
                    "difference": difference,
                    "ci": list(interval),
                    "p": p,
                }
            )
        for row, adjusted in zip(found, holm([row["p"] for row in found]) if found else [], strict=True):
            row["p_adjusted"] = adjusted
        rows += found
    return rows


def verdicts(rows: Sequence[dict[str, Any]], pairs: Sequence[dict[str, Any]]) -> list[str]:
    """What the numbers allow to be said. A difference whose test does not reject is not called one."""
    by_role = only_of_their_role(rows)
    said: list[str] = []
    if {"student", "baseline"} <= by_role.keys():
        said.append(_against(pairs, "student", "baseline", "The student", "the undistilled baseline"))
    if {"student", "reference_trained"} <= by_role.keys():
        said.append(_against(pairs, "student", "reference_trained", "Distillation", "training on the references alone"))
    if {"student", "teacher"} <= by_role.keys():
        student, teacher = by_role["student"], by_role["teacher"]
        if student["retention"] is not None:
            bounds = student.get("retention_ci")
            range_ = f" (95% {bounds[0]:.0%} to {bounds[1]:.0%})" if bounds else ""
            said.append(
                f"The student keeps {student['retention']:.0%}{range_} of the teacher's accuracy "
                f"({student['accuracy']:.1%} against {teacher['accuracy']:.1%})."
            )
        cuts = [
            _cut(student, teacher, "latency_p50_s", "median response time"),
            _cut(student, teacher, "weights_mb", "weights on disk"),
            _cut(student, teacher, "peak_memory_mb", "peak memory"),
            _cut(student, teacher, "cost_per_1k", "cost per 1,000 replies"),
        ]
        if any(cuts):
            said.append("Next to the teacher: " + ", ".join(filter(None, cuts)) + ".")
    if {"student", "untouched"} <= by_role.keys():
        said.append(_against(pairs, "student", "untouched", "The student", "the untouched model that it was cut from"))
    return said or _best_against_others(rows, pairs)


def only_of_their_role(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Role → its row. A role that two models have, as two runs' students do, names neither."""
    roles = [row["role"] for row in rows]
    return {row["role"]: row for row in rows if row["role"] and roles.count(row["role"]) == 1}


def _best_against_others(rows: Sequence[dict[str, Any]], pairs: Sequence[dict[str, Any]]) -> list[str]:
    """Models of no common run: the one of the highest score against each other one, by their names."""
    metric = next((m for m in METRICS if all(row[m] is not None for row in rows)), None)
    if metric is None or len(rows) < 2:
        return []
    best = max(rows, key=lambda row: row[metric])["model"]
    others = [row["model"] for row in rows if row["model"] != best]
    return [_against(pairs, best, name, best, name) for name in others]


def _against(pairs: Sequence[dict[str, Any]], a: str, b: str, a_words: str, b_words: str) -> str:
    """`a` and `b`: roles, or models' names."""
    better: list[str] = []
    worse: list[str] = []
    open_: list[str] = []
    for pair in pairs:
        sides = next((sides for sides in (pair["roles"], [pair["a"], pair["b"]]) if set(sides) == {a, b}), None)
        if sides is None:
            continue
        sign = 1 if sides[0] == a else -1
        low, high = sorted(sign * np.array(pair["ci"]))
        scale = 100 if pair["metric"] == "accuracy" else 1
        unit = " points" if pair["metric"] == "accuracy" else ""
        words = (
            f"{METRIC_WORDS[pair['metric']]} {sign * pair['difference'] * scale:+.3g}{unit} "
            f"(95% {low * scale:.3g} to {high * scale:.3g}, p {_p(pair['p_adjusted'])})"
        )
        if pair["p_adjusted"] >= 0.05:
            open_.append(words)
        else:
            (better if sign * pair["difference"] > 0 else worse).append(words)
    parts = []
    if better:
        parts.append(f"{a_words} beats {b_words} in {'; '.join(better)}.")
    if worse:
        parts.append(f"{a_words} loses to {b_words} in {'; '.join(worse)}.")
    if open_:
        parts.append(f"No difference from {b_words} can be claimed in {'; '.join(open_)}.")
    return " ".join(parts) or f"{a_words} and {b_words} could not be compared."


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _cut(student: dict[str, Any], teacher: dict[str, Any], key: str, words: str) -> str | None:
    if not student[key] or not teacher[key]:
        return None
    return f"{words} {student[key] / teacher[key] - 1:+.0%}"
