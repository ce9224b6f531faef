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
from evals.statistics import wilson_interval
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
    (pair,) = ratings.pair_rows()
    assert (pair["model_a"], pair["model_b"], pair["votes"], pair["win_rate"]) == ("x|<b>", "y", 4, 0.75)
    # One visitor cast all three votes for x: by visitor the four votes say as much as 4/3 would.
    assert (pair["win_low"], pair["win_high"]) == pytest.approx(wilson_interval(1, 4 / 3))
    assert (ratings.rows()[0]["win_low"], ratings.rows()[0]["win_high"]) == (pair["win_low"], pair["win_high"])


def test_csv_and_json_hold_the_same_board(votes: pd.DataFrame) -> None:
    ratings = ratings_of(votes)
    table = list(csv.DictReader(io.StringIO(to_csv(ratings))))
    assert list(table[0]) == list(COLUMNS)
    value = json.loads(to_json(ratings))
    assert [row["model"] for row in value["rows"]] == [row["model"] for row in table]
    assert value["rows"][0]["rating"] == pytest.approx(float(table[0]["rating"]))
    assert value["notes"] == ratings.notes
    assert value["pairs"] == ratings.pair_rows()


def test_the_page_needs_nothing_else(votes: pd.DataFrame) -> None:
    page = to_html(ratings_of(votes))
    assert "x|&lt;b&gt;" in page
    assert "<b>" not in page.replace('<b style="left', "")
    assert not re.search(r"(src|href)=|@import|url\(", page)
    assert "<h2>Head to head</h2>" in page


def test_markdown_is_two_tables(votes: pd.DataFrame) -> None:
    lines = [line for line in to_markdown(ratings_of(votes)).splitlines() if line.startswith("|")]
    assert len(lines) == 4 + 3
    for table in (lines[:4], lines[4:]):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
    assert lines[2].startswith("| 1 | x\\|<b> | 1")


@pytest.mark.parametrize("form", FORMS)
def test_every_form_takes_no_votes_and_boards_by_intent(form: str, votes: pd.DataFrame) -> None:
    assert FORMS[form](ratings_of(votes.head(0)))
    assert FORMS[form](ratings_of(votes.head(0), by="intent"))
    assert "refund" in FORMS[form](ratings_of(votes, by="intent"))
    assert FORMS[form](ratings_of(votes, by="turns"))


def test_models_that_are_not_for_the_reader_are_rated_and_not_shown(votes: pd.DataFrame) -> None:
    whole, part = ratings_of(votes), ratings_of(votes, shown=lambda model: model == "y")
    assert part.rows() == [row for row in whole.rows() if row["model"] == "y"]
    assert part.pair_rows() == []
    assert all("x|<b>" not in write(part) for write in FORMS.values())


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
    assert "Head to head" in shown.stdout
    assert "equally long" in shown.stdout
    page = tmp_path / "ratings.html"
    written = cli("--format", "html", "--out", str(page), "--by-intent")
    assert (written.returncode, written.stdout) == (0, f"Ratings: {page}\n")
    assert "intent: refund" in page.read_text("utf-8")
    assert len(list(csv.DictReader(io.StringIO(cli("--format", "csv", "--intent", "refund").stdout)))) == 2


def test_the_leaderboard_s_command_has_the_votes(votes: pd.DataFrame, tmp_path: Path) -> None:
    card = tmp_path / "card.md"
    command = [sys.executable, "-m", "evals", "leaderboard"]
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "NO_COLOR": "1"}
    for more in (["--format", "markdown", "--out", str(card)], ["--json"], ["--format", "csv", "--intent", "order"]):
        done = subprocess.run([*command, *more], check=False, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        if more == ["--json"]:
            rows = {row["model"]: row for row in json.loads(done.stdout)}
            assert (rows["y"]["votes"], rows["y"]["win_rate"], rows["y"]["vote_rank"]) == (4, 0.25, 1)
    assert "| rating | 1" in card.read_text("utf-8")
    assert len(done.stdout.splitlines()) == 1  # no vote was on an order: a head without rows
    refused = cli("--by-intent", "--by-turns")
    assert refused.returncode != 0
    assert "one after the other" in refused.stderr


def test_the_command_without_votes_or_with_a_wrong_database(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "No votes yet" in cli().stdout
    monkeypatch.setenv("DATABASE_URL", "mysql://host/votes")
    refused = cli()
    assert refused.returncode == 9
    assert refused.stderr.startswith("Error: Votes cannot be kept in mysql://host/votes.")
