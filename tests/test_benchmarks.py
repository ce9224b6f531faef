"""Stored results of benchmarks have one form, and their goals are met or the table says that they are not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.common import RESULTS, Figure, print_results

STORED = sorted(RESULTS.glob("*.json"))


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_the_form_of_a_result(path: Path) -> None:
    value = json.loads(path.read_text("utf-8"))
    assert set(value) == {"machine", "commit", "date", "command", "figures"}
    for stored in value["figures"].values():
        assert Figure(**stored).runs


def figures_of(name: str) -> dict[str, dict[str, float]]:
    return json.loads((RESULTS / f"{name}.json").read_text("utf-8"))["figures"]


def test_the_headline_is_measured() -> None:
    assert set(figures_of("headline")) == {
        "response_time_cut", "weights_cut", "weights_cut_vs_gguf", "peak_memory_cut", "accuracy_kept", "cost_cut",
        "users_factor",
    }  # fmt: skip


def test_votes_and_ratings_are_measured() -> None:
    figures = figures_of("ratings")
    assert set(figures) == {"lost_votes", "doubled_votes", "rate_100k_s", "page_100k_ms", "first_page_100k_ms"}
    assert figures["lost_votes"]["value"] == figures["doubled_votes"]["value"] == 0


def test_a_goal_has_a_direction(capsys: pytest.CaptureFixture[str]) -> None:
    assert Figure(4.0, "s", 5.0, [4.0]).met
    assert not Figure(4.0, "tokens/s", 5.0, [4.0], higher_is_better=True).met
    print_results()
    assert "rate_100k_s" in capsys.readouterr().out
