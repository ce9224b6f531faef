"""Leaderboard and About in a real browser, on reports that no model had to be run for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd
import pytest

from distiller.errors import DistillerError
from distiller.runs import Run
from evals.leaderboard import boards
from evals.leaderboard_export import FORMS, Table
from evals.ratings_export import Ratings, ratings_of
from tests.reports import make_report
from tests.ui.conftest import open_page
from ui import about_tab, leaderboard_tab
from ui.access import Visitor, claim, may_see
from ui.app import CSS, theme
from ui.leaderboard_tab import columns_of, note, to_table

TURNS = [(f"c{k // 2}", k % 2 + 1, ("refund", "track_order")[k // 2 % 2]) for k in range(80)]
RIGHT = {"teacher": 70, "student": 60, "baseline": 4}  # of 80 turns


def write_reports(folder: Path) -> None:
    make_report(
        folder / "r1",
        {f"run:r1/{role}": [k < right for k in range(80)] for role, right in RIGHT.items()},
        turns=TURNS,
        created="2026-01-02T00:00:00Z",
        latency_p50_s=0.9,
        peak_memory_mb=900.0,
        parameters=9e6,
    )
    make_report(folder / "evaluations" / "other", {"hf:owner/some-model": [True, False] * 2 + [True]}, data="other")


class Votes:
    """As the database would say it."""

    def rows(self, intent: str | None, turn: int | None, shown: Any) -> list[dict[str, Any]]:
        if intent == "refund":
            raise DistillerError("the database is away.")
        return [
            {"model": "run:r1/student", "rating": 1080.0, "rating_ci": [1020.0, 1140.0], "votes": 24},
            {
                "model": "openai:far@https://models.example/v1",
                "rating": 990.0,
                "rating_ci": [930.0, 1050.0],
                "votes": 24,
            },
        ]

    def ratings(self, intent: str | None, turn: int | None, shown: Any) -> Ratings:
        self.rows(intent, turn, shown)
        columns = ["model_a", "model_b", "choice", "visitor"]
        rows = [["run:r1/student", "openai:far@https://models.example/v1", "aab"[k % 3], f"v{k}"] for k in range(24)]
        table = pd.DataFrame(rows, columns=columns)
        return ratings_of(table.assign(created=range(24), counted=True, why_not=None, len_a=5, len_b=6), shown=shown)


# The parts that need no browser.


def test_the_table_sorts_by_values_and_shows_words(runs_folder: Path) -> None:
    write_reports(runs_folder)
    board = boards()[0][0]
    rows = board.rows()
    columns = columns_of(rows, rows)
    titles = [column.title for column in columns]
    assert titles == ["model", "rank", "accuracy", "of teacher's", "over baseline", "BLEU", "reply p50", "peak MB", "parameters", "turns judged"]  # fmt: skip
    table = to_table(rows, columns)
    assert table["data"][1][:3] == ["Student", 1, 0.75]
    assert table["metadata"]["display_value"][1][2].startswith("75.0% (")
    assert [c.title for c in columns_of(board.rows("refund"), rows)] == titles  # a filter makes no column vanish


def test_the_table_can_be_taken_away(runs_folder: Path) -> None:
    write_reports(runs_folder)
    board = boards()[0][0]
    rows = board.rows("refund", 1)
    forms = {form: write(Table(board, rows, "refund", 1)) for form, write in FORMS.items()}
    head, first, *_ = forms["csv"].splitlines()
    assert head.startswith("model,role,rank,accuracy,accuracy_low,accuracy_high,")
    assert len(head.split(",")) == len(first.split(","))
    assert first.startswith("run:r1/")
    assert [row["model"] for row in json.loads(forms["json"])["rows"]] == [row["model"] for row in rows]
    table = [line for line in forms["markdown"].splitlines() if line.startswith("|")]
    assert table[0] == "|  | Teacher | Student | Undistilled baseline |"
    assert len({line.count("|") for line in table}) == 1
    assert "<td>Undistilled baseline</td>" in forms["html"]
    assert not re.search(r"(src|href)=|@import|url\(", forms["html"])
    assert all("refund" in forms[form] for form in ("json", "html", "markdown"))
    assert all(write(Table(None, [])) for write in FORMS.values())
    words = note(board, rows, "refund", 1)
    assert "Only intent “refund” and turn 1" in words
    assert "of all turns" in words


def test_what_was_made_of_private_data_is_for_its_owner(runs_folder: Path) -> None:
    write_reports(runs_folder)
    claim(Run(runs_folder / "evaluations" / "other"), Visitor("ann", owner=False), private=True)
    seen = {
        who.id: [board.name for board in boards(may_see(who))[0]]
        for who in (Visitor("ann", False), Visitor("bob", False), Visitor("owner", True))
    }
    assert seen == {"ann": (both := ["r1/data.jsonl", "other/other.jsonl"]), "bob": both[:1], "owner": both}


def test_what_a_space_may_lose_is_said_where_it_matters(runs_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_reports(runs_folder)
    board = boards()[0][0]
    assert "restart" not in note(board, board.rows(), None, None)
    monkeypatch.setenv("SPACE_ID", "owner/name")
    assert "restart" in note(board, board.rows(), None, None)


# The page.


@pytest.fixture(scope="module")
def board(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a page with these two tabs only; `browser` first, so that without one nothing is served."""
    folder = tmp_path_factory.mktemp("board")
    write_reports(folder)
    with pytest.MonkeyPatch.context() as monkeypatch, gr.Blocks(title="Board", analytics_enabled=False) as page:
        monkeypatch.delenv("SPACE_ID", raising=False)
        monkeypatch.setattr("evals.leaderboard.runs_folder", lambda: folder)
        with gr.Tab("Leaderboard") as tab:
            leaderboard_tab.build_leaderboard_tab(page, Votes(), tab)
        with gr.Tab("About"):
            about_tab.build_about_tab(page, lambda: "number,choice\n1,a\n")
        css = CSS + leaderboard_tab.CSS + about_tab.CSS
        _, url, _ = page.launch(theme=theme(), css=css, ssr_mode=False, prevent_thread_lock=True, quiet=True)
        yield url
        page.close(verbose=False)


@pytest.fixture
def page(browser: Any, board: str) -> Iterator[Any]:
    with open_page(browser, board, height=900) as opened:
        yield opened


def models(page: Any) -> list[str]:
    return page.locator('#leaderboard [role="gridcell"][aria-colindex="1"]').all_inner_texts()


def pick(page: Any, label: str, option: str) -> None:
    page.get_by_label(label).click()
    page.get_by_role("option", name=option, exact=True).click()


def cell(page: Any, model: str, column: str) -> Any:
    page.locator(f'[role=columnheader][data-column="{column}"]').wait_for()
    titles = page.locator("#leaderboard [role=columnheader]").evaluate_all("all => all.map(c => c.dataset.column)")
    row = page.locator("#leaderboard [role=row]", has=page.get_by_role("gridcell", name=model, exact=True))
    return row.locator(f'[aria-colindex="{titles.index(column) + 1}"]')


def test_filters_change_what_the_numbers_are_of(page: Any) -> None:
    from playwright.sync_api import expect

    expect(cell(page, "Student", "accuracy")).to_have_text(re.compile(r"75\.0% \("))
    assert sorted(models(page)) == ["Student", "Teacher", "Undistilled baseline", "far"]
    expect(cell(page, "Student", "rating")).to_have_text("1,080 (1,020–1,140)")
    expect(cell(page, "Undistilled baseline", "rating")).to_have_text("–")
    pick(page, "intent", "refund")
    expect(page.get_by_text("the database is away.")).to_be_visible()
    pick(page, "intent", "track order")
    expect(page.get_by_text("the database is away.")).to_be_hidden()
    pick(page, "turn", "2")
    expect(page.get_by_text("Only intent “track order” and turn 2")).to_be_visible()
    expect(cell(page, "Student", "turns judged")).to_have_text("20")
    expect(cell(page, "Student", "BLEU")).to_have_text("–")
    pick(page, "Data set", "other/other.jsonl")
    expect(page.get_by_role("gridcell", name="some-model")).to_be_visible()
    expect(page.get_by_text("5 questions in 3 conversations")).to_be_visible()
    expect(page.get_by_text("Only intent")).to_have_count(0)  # that data set has no such intent chosen


def test_columns_explain_themselves_to_pointer_keyboard_and_screen_reader(page: Any) -> None:
    from playwright.sync_api import expect

    accuracy = page.locator('[role=columnheader][data-column="accuracy"]')
    expect(accuracy).to_have_attribute("title", re.compile("Share of the judged turns"))
    expect(accuracy).to_have_attribute("aria-description", re.compile("Share of the judged turns"))
    accuracy.hover()
    expect(page.locator("#board-hint")).to_contain_text("accuracy: Share of the judged turns")
    page.get_by_title("Enter text to search the table").focus()
    for key in ("Tab", "Tab", "Tab", "ArrowUp", "ArrowRight"):
        page.keyboard.press(key)
    expect(page.locator("#board-hint")).to_contain_text("rank: Place by accuracy")
    page.get_by_text("What every column means").click()
    expect(page.locator(".definitions dt", has_text="TTFT p50").first).to_be_visible()


def test_sorting_goes_by_the_number_and_works_from_the_keyboard(page: Any) -> None:
    from playwright.sync_api import expect

    page.locator('[role=columnheader][data-column="peak MB"]').click()
    page.get_by_role("menuitem", name="Sort ascending").click()
    expect(cell(page, "Teacher", "peak MB")).to_have_text("900")
    known = [name for name in models(page) if name != "far"]
    assert known == ["Teacher", "Student", "Undistilled baseline"]  # 900, 1,800, 2,700: by words 1,800 would come first
    page.locator('[role=columnheader][data-column="peak MB"]').focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("menuitem", name="Sort ascending")).to_be_focused()
    page.keyboard.press("Escape")


def test_charts_have_error_bars_and_the_table_is_downloaded(page: Any) -> None:
    from playwright.sync_api import expect

    expect(page.locator("#board-charts .js-plotly-plot")).to_have_count(3)
    expect(page.locator("#board-charts .errorbar")).to_have_count(3 + 3 + 2)
    expect(page.locator("#board-charts .gtitle")).to_have_text(
        ["Accuracy, with 95% intervals", "Accuracy against seconds a reply (median)", "Rating by votes, with 95% intervals"]
    )  # fmt: skip
    with page.expect_download() as waiting:
        page.get_by_role("link", name="JSON").click()
    table = json.loads(Path(waiting.value.path()).read_text())
    assert waiting.value.suggested_filename == "leaderboard.json"
    assert {row["model"] for row in table["rows"]} >= {"run:r1/student", "openai:far@https://models.example/v1"}


def test_votes_stand_head_to_head_and_are_taken_away(page: Any) -> None:
    from playwright.sync_api import expect

    page.get_by_role("button", name="Votes, head to head").click()
    row = page.locator("#pairs tbody tr")
    expect(row).to_have_count(1)
    expect(row).to_contain_text("Student")
    expect(row).to_contain_text("33.3%")
    expect(page.locator("#pairs")).to_contain_text("24 votes of 24 visitors.")
    for words, name, part in (("CSV", "ratings.csv", "win_rate"), ("Markdown", "ratings.md", "## Head to head")):
        with page.expect_download() as waiting:
            page.get_by_role("button", name=f"Ratings as {words}", exact=True).click()
        assert waiting.value.suggested_filename == name
        assert part.removeprefix("#") in Path(waiting.value.path()).read_text()
    pick(page, "intent", "refund")
    expect(page.locator("#pairs")).to_contain_text("the database is away.")


def test_about_says_what_it_has_to_and_gives_the_votes(page: Any) -> None:
    from playwright.sync_api import expect

    page.get_by_role("tab", name="About").click()
    for heading in ("How it works", "What the numbers mean", "What is stored about you", "Call it from a program"):
        expect(page.get_by_role("heading", name=heading)).to_be_visible()
    expect(page.get_by_role("list", name="From the teacher to the arena").get_by_role("listitem")).to_have_count(6)
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download the votes").click()
    assert Path(waiting.value.path()).read_text() == "number,choice\n1,a\n"


@pytest.mark.parametrize("look", ["light", "dark"])
@pytest.mark.parametrize("tab", ["Leaderboard", "About"])
def test_a_phone_never_scrolls_sideways_and_text_can_be_read(board: str, page: Any, tab: str, look: str) -> None:
    from playwright.sync_api import expect

    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"{board}?__theme={look}")
    page.get_by_role("tab", name=tab).click()
    shown = page.locator("#board-charts .gtitle").first if tab == "Leaderboard" else page.locator(".flow b").first
    expect(shown).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    ink = shown.evaluate("e => getComputedStyle(e)[e.tagName === 'text' ? 'fill' : 'color']")
    brightness = sum(map(int, re.findall(r"\d+", ink)[:3])) / 3
    assert brightness > 160 if look == "dark" else brightness < 100
