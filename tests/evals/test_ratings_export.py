"""The votes' leaderboard in its forms, and the command that writes them."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from evals.ratings import COLUMNS
from evals.ratings_export import FORMS, ratings_of, to_csv, to_html, to_json, to_markdown
from evals.votes import Choice, Reply, Side, VoteStore
from tests.conftest import PROJECT


@pytest.fixture
def votes(runs_folder: Path) -> pd.DataFrame:
    """In the default database: x beats y 3 to 1, one vote on z that names itself, one by the API."""
    store = VoteStore()

    def play(b: str, choice: Choice, reply: str = "There.", **more: str) -> None:
        opened = store.open_battle(Side("x|<b>"), Side(b), visitor="v", intent=more.get("intent"))
        store.add_turn(opened.battle_id, "Where?", Reply("Here, I think."), Reply(reply))
        source = "api" if more.get("source") else "page"
        store.vote(opened.battle_id, opened.token, more.get("visitor", "v"), choice, 1, source)  # type: ignore[arg-type]

    for choice in ("a", "a", "a", "b"):
        play("y", choice, intent="refund", visitor=f"v{choice}")  # type: ignore[arg-type]
    play("z", "a", "I am ChatGPT.")
    play("y", "b", source="api")
    table = store.votes_table()
    store.close()
    return table


def test_only_what_counts_is_rated(votes: pd.DataFrame) -> None:
    ratings = ratings_of(votes)
    assert [(row["model"], row["wins"], row["losses"]) for row in ratings.rows()] == [("x|<b>", 3, 1), ("y", 1, 3)]
    assert ratings.notes[0] == (
        "4 votes of 2 visitors; kept apart: 1 sent by the API, 1 on a reply that named its model."
    )
    assert ratings.notes[1].startswith("x|<b> wins 75.0% (30.1%–95.4%) against y; were the replies equally long, ")


def test_csv_and_json_hold_the_same_board(votes: pd.DataFrame) -> None:
    ratings = ratings_of(votes)
    table = list(csv.DictReader(io.StringIO(to_csv(ratings))))
    assert list(table[0]) == list(COLUMNS)
    value = json.loads(to_json(ratings))
    assert [row["model"] for row in value["rows"]] == [row["model"] for row in table]
    assert value["rows"][0]["rating"] == pytest.approx(float(table[0]["rating"]))
    assert value["notes"] == ratings.notes


def test_the_page_needs_nothing_else(votes: pd.DataFrame) -> None:
    page = to_html(ratings_of(votes))
    assert "x|&lt;b&gt;" in page
    assert "<b>" not in page.replace('<b style="left', "")
    assert not re.search(r"(src|href)=|@import|url\(", page)
    assert "30.1%–95.4%" in page


def test_markdown_is_one_table(votes: pd.DataFrame) -> None:
    lines = [line for line in to_markdown(ratings_of(votes)).splitlines() if line.startswith("|")]
    assert len(lines) == 4
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert lines[2].startswith("| 1 | x\\|<b> | 1")


@pytest.mark.parametrize("form", FORMS)
def test_every_form_takes_no_votes_and_boards_by_intent(form: str, votes: pd.DataFrame) -> None:
    assert FORMS[form](ratings_of(votes.head(0)))
    assert FORMS[form](ratings_of(votes.head(0), by="intent"))
    assert "refund" in FORMS[form](ratings_of(votes, by="intent"))


def test_groups_and_outliers_are_named() -> None:
    rows = [("x", "y", "a", f"v{k % 9}") for k in range(90)] + [("p", "q", "tie", "v1")] + [("x", "y", "b", "bad")] * 9
    table = pd.DataFrame(rows, columns=["model_a", "model_b", "choice", "visitor"])
    table = table.assign(created=range(len(table)), counted=True, why_not=None, len_a=5, len_b=5)
    kept, left_out = ratings_of(table), ratings_of(table, leave_out_outliers=True)
    assert "Visitors who vote unlike all others: 1; their 9 votes are rated all the same." in kept.notes
    assert "Visitors who vote unlike all others: 1; their 9 votes are left out." in left_out.notes
    assert any("each has ratings and ranks of its own: x, y; p, q" in note for note in kept.notes)
    assert sum(row["losses"] for row in left_out.rows() if row["model"] == "x") == 0


def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "evals", "ratings", *arguments]
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "NO_COLOR": "1"}
    return subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=120)


def test_the_command(votes: pd.DataFrame, tmp_path: Path) -> None:
    shown = cli()
    assert shown.returncode == 0, shown.stderr
    assert "Ratings by votes" in shown.stdout
    assert "4 votes of 2 visitors" in shown.stdout
    page = tmp_path / "ratings.html"
    written = cli("--format", "html", "--out", str(page), "--by-intent")
    assert (written.returncode, written.stdout) == (0, f"Ratings: {page}\n")
    assert "intent: refund" in page.read_text("utf-8")
    assert len(list(csv.DictReader(io.StringIO(cli("--format", "csv", "--intent", "refund").stdout)))) == 2


def test_the_command_without_votes_or_with_a_wrong_database(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "No votes yet" in cli().stdout
    monkeypatch.setenv("DATABASE_URL", "mysql://host/votes")
    refused = cli()
    assert refused.returncode == 9
    assert refused.stderr.startswith("Error: Votes cannot be kept in mysql://host/votes.")
