"""Reports and votes become one table a data set; its figures by turn are the report's own, computed again."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from distiller.errors import RunError
from evals.columns import BY_KEY, COLUMNS, used_columns
from evals.labels import labels
from evals.leaderboard import KEYS, boards, measured, newest_board, with_votes
from evals.statistics import wilson_interval
from tests.reports import TURNS, make_report

TEACHER, STUDENT, BASELINE = (f"run:r1/{role}" for role in ("teacher", "student", "baseline"))
CORRECT: dict[str, list[bool | None]] = {
    TEACHER: [True, True, True, True, False],
    STUDENT: [True, False, True, True, None],
    BASELINE: [False, False, False, True, False],
}


def by_model(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["model"]: row for row in rows}


def test_no_report_no_rows(runs_folder: Path) -> None:
    assert boards() == ([], [])
    assert newest_board() is None


def test_one_board_a_data_set_and_the_newest_report_of_a_model_counts(runs_folder: Path) -> None:
    make_report(runs_folder / "r1", CORRECT, created="2026-01-01T00:00:00Z")
    other = {"bundled:some": [False] * 5, TEACHER: [False] * 5}
    make_report(runs_folder / "evaluations" / "later", other, created="2026-01-02T00:00:00Z")
    make_report(runs_folder / "r2", {"run:r2/student": [True] * 5}, data="another", created="2026-01-03T00:00:00Z")
    found, unreadable = boards()
    assert unreadable == []
    assert [board.name for board in found] == ["r2/another.jsonl", "later/data.jsonl"]
    rows = by_model(found[1].rows())
    assert set(rows) == {*CORRECT, "bundled:some"}
    assert rows[TEACHER]["accuracy"] == 0.0
    assert all(set(row) == set(KEYS) for row in rows.values())
    newest = newest_board()
    assert newest is not None
    assert [row["model"] for row in newest.rows()] == ["run:r2/student"]


def test_without_a_filter_the_figures_are_the_report_s_and_with_all_turns_chosen_the_same(runs_folder: Path) -> None:
    path = make_report(runs_folder / "r1", CORRECT)
    report = measured(path)
    [board], _ = boards()
    for row in board.rows():
        again = report.some(row["model"], None, None)
        assert again == {key: row[key] for key in ("n", "accuracy", "accuracy_ci")}


def test_a_filter_recomputes_what_depends_on_the_turns(runs_folder: Path) -> None:
    make_report(runs_folder / "r1", CORRECT, latency_p50_s=0.5)
    [board], _ = boards()
    assert board.intents() == ["delivery", "refund"]
    assert board.turns() == [1, 2]
    rows = by_model(board.rows("refund", None))
    assert (rows[STUDENT]["n"], rows[STUDENT]["accuracy"]) == (3, pytest.approx(2 / 3))
    assert rows[STUDENT]["retention"] == pytest.approx(2 / 3)
    assert rows[STUDENT]["improvement"] == pytest.approx(2 / 3)
    assert rows[TEACHER]["accuracy_ci"] == pytest.approx(wilson_interval(3, 3))
    # BLEU is of all turns: not shown as if it were of these. A time is a time.
    assert rows[STUDENT]["bleu"] is None
    assert rows[STUDENT]["latency_p50_s"] == 1.0
    both = by_model(board.rows("delivery", 2))
    assert (both[STUDENT]["n"], both[STUDENT]["accuracy"], both[STUDENT]["rank"]) == (0, None, None)
    assert both[TEACHER]["accuracy"] == 0.0
    assert both[TEACHER]["retention"] is None  # nothing over nothing


def test_ranks_are_given_over_all_reports(runs_folder: Path) -> None:
    many = [(f"c{k}", 1, "refund") for k in range(40)]
    make_report(runs_folder / "r1", {"run:r1/student": [True] * 40}, turns=many)
    make_report(runs_folder / "r2", {"run:r2/student": [False] * 40}, turns=many)
    make_report(runs_folder / "r3", {"run:r3/student": [True] * 39 + [False]}, turns=many)
    [board], _ = boards()
    assert {row["model"][4:6]: row["rank"] for row in board.rows()} == {"r1": 1, "r3": 1, "r2": 3}
    assert next(iter(labels(board.rows()).values())) == "student · r1"


def test_labels_are_short_as_long_as_they_tell_the_models_apart() -> None:
    def names(*models: str) -> list[str]:
        rows = [{"model": model, "role": model.rpartition("/")[2] if model[:4] == "run:" else None} for model in models]
        return list(labels(rows).values())

    assert names(TEACHER, "openai:deepseek-chat@https://models.example/v1", "hf:owner/phi-4-mini", "bundled:small") == [
        "teacher", "deepseek-chat", "phi-4-mini", "small"
    ]  # fmt: skip
    assert names("hf:a/m", "hf:b/m") == ["hf:a/m", "hf:b/m"]
    assert labels([{"model": TEACHER, "role": "teacher"}], {"teacher": "Teacher"}) == {TEACHER: "Teacher"}


def test_votes_join_by_name_and_rank_by_their_own_intervals(runs_folder: Path) -> None:
    make_report(runs_folder / "r1", CORRECT)
    [board], _ = boards()
    assert [row["vote_rank"] for row in with_votes(board.rows(), [])] == [None] * 3
    ratings = [
        {"model": STUDENT, "rating": 1100, "rating_ci": [1050, 1150], "votes": 30, "win_rate": 0.7},
        {"model": TEACHER, "rating": 1120, "rating_ci": [1080, 1160], "votes": 30},
        {"model": "openai:other", "rating": 900, "rating_ci": [850, 960], "votes": 12},
    ]
    rows = by_model(with_votes(board.rows(), ratings))
    assert {name: row["vote_rank"] for name, row in rows.items()} == {
        STUDENT: 1,
        TEACHER: 1,
        BASELINE: None,
        "openai:other": 3,
    }
    assert rows[STUDENT]["accuracy"] == 0.75
    assert rows[STUDENT]["win_rate"] == 0.7
    assert rows["openai:other"]["accuracy"] is None
    assert all(set(row) == set(KEYS) for row in rows.values())
    assert [row["model"] for row in with_votes([], ratings)] == [TEACHER, STUDENT, "openai:other"]


def test_a_damaged_report_is_named_and_takes_no_other_with_it(runs_folder: Path) -> None:
    make_report(runs_folder / "r1", CORRECT)
    (runs_folder / "bad").mkdir()
    (runs_folder / "bad" / "report.json").write_text('{"rows": ')
    found, [words] = boards()
    assert len(found) == 1
    assert "bad/report.json cannot be read" in words
    (runs_folder / "bad" / "job.yaml").write_text("name: bad")
    with pytest.raises(RunError, match="cannot be read"):
        newest_board("bad")


def test_a_report_that_changed_is_read_again(runs_folder: Path) -> None:
    make_report(runs_folder / "r1", CORRECT)
    boards()
    time.sleep(0.01)
    make_report(runs_folder / "r1", CORRECT | {STUDENT: [False] * 5})
    [board], _ = boards()
    assert by_model(board.rows())[STUDENT]["accuracy"] == 0.0


def test_a_large_leaderboard_is_quick(runs_folder: Path) -> None:
    many = [(f"c{k // 4}", k % 4 + 1, TURNS[k % 5][2]) for k in range(400)]
    for run in range(10):
        make_report(
            runs_folder / f"r{run}",
            {f"run:r{run}/{role}": [bool(k % 3) for k in range(400)] for role in ("teacher", "student", "baseline")},
            turns=many,
        )
    boards()
    begun = time.perf_counter()
    [board], _ = boards()
    rows = with_votes(board.rows("refund", 1), [])
    assert len(rows) == 30
    assert time.perf_counter() - begun < 0.3


def test_every_column_has_its_definition_once() -> None:
    assert len(BY_KEY) == len(COLUMNS)
    assert {column.key for column in COLUMNS} <= set(KEYS)
    for column in COLUMNS:
        assert column.meaning.endswith("."), column.key
        assert len(column.title) <= 16


def test_a_cell_shows_its_value_with_its_interval() -> None:
    row = {"accuracy": 0.614, "accuracy_ci": [0.52, 0.7], "latency_p50_s": 1.2345, "improvement": -0.02, "rating": 1000}
    assert BY_KEY["accuracy"].cell(row) == "61.4% (52.0–70.0)"
    assert BY_KEY["latency_p50_s"].cell(row) == "1.23 s"
    assert BY_KEY["improvement"].cell(row) == "-2.0 pt"
    assert BY_KEY["rank"].cell(row) == "–"
    assert BY_KEY["rating"].cell(row | {"rating_ci": [-20, 40]}) == "1,000 (-20 to 40)"
    assert [column.key for column in used_columns([row])] == [
        "accuracy", "improvement", "rating", "latency_p50_s"
    ]  # fmt: skip


def test_the_command_line_names_each_model_and_keeps_its_keys(
    runs_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from evals.cli import leaderboard

    make_report(runs_folder / "r1", CORRECT)
    leaderboard(None, True)
    rows = json.loads(capsys.readouterr().out)
    assert [set(row) for row in rows] == [set(KEYS)] * 3
    leaderboard(None, False)
    assert "reply p50" in (shown := capsys.readouterr().out)
    assert "baseline" in shown
