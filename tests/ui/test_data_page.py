"""The Data tab in a real browser, on a small run: browse, filter, edit, train again; as a visitor; on a phone."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distiller.edits import read_edits
from distiller.job import load_job
from distiller.runs import Run
from tests.fabricated import FILLERS, HOSTILE, make_run
from tests.ui.conftest import SLOW_MS, need, open_page, serve

CHROMIUM = Path("/usr/bin/chromium")
PAGE = "tests/ui/data_page.py"
TURNS = 2 + 1 + FILLERS + 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data-page")


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("DISTILLER_RUNS", str(folder / "runs"))
        return make_run(folder)


@pytest.fixture(scope="module")
def served(folder: Path, run: Run) -> Iterator[str]:
    need(CHROMIUM.exists(), f"there is no browser at {CHROMIUM} (apt-get install chromium)")
    with serve(folder, PAGE) as address:
        yield address


def button(page: Any, name: str) -> Any:
    return page.get_by_role("button", name=name, exact=True)


def turn(page: Any) -> Any:
    return page.locator("#data-turn")


def choose_status(page: Any, name: str) -> None:
    """An answer to what was chosen before may draw the choices again at this moment; the answer to this one comes last."""
    from playwright.sync_api import expect

    radio = page.get_by_role("radio", name=re.compile(f"^{name}"))
    radio.click(force=True)
    expect(radio).to_be_checked()


def test_browse_filter_and_download(served: str, run: Run, browser: Any) -> None:
    from playwright.sync_api import expect

    with open_page(browser, served) as page:
        expect(page.get_by_label("Run or data set")).to_have_value(f"{run.id} (complete)", timeout=SLOW_MS)
        expect(turn(page)).to_contain_text("You have 30 days, of course.")
        expect(page.locator("#data-table")).to_contain_text("How long can I return it?")
        expect(page.get_by_text(f"1 to 25 of {TURNS} turns")).to_be_visible()

        button(page, "Next turn").click()
        expect(turn(page)).to_contain_text("It says 30 where 14 is right.")
        button(page, "Next turn").click()
        # What the data says is shown as it was said: no HTML, no template, no Markdown.
        expect(turn(page).locator(".query")).to_contain_text(HOSTILE)
        expect(page.locator("img[src=x]")).to_have_count(0)
        assert page.title() == "Data"
        button(page, "Next page").click()
        expect(page.get_by_text(f"26 to {TURNS} of {TURNS} turns")).to_be_visible()
        expect(button(page, "Next page")).to_be_disabled()

        choose_status(page, "Dropped 2")
        expect(page.get_by_text("1 to 2 of 2 turns")).to_be_visible()
        expect(turn(page)).to_contain_text("It says 30 where 14 is right.")
        page.locator("#data-table").get_by_role("gridcell").filter(has_text="title").first.click()
        expect(turn(page)).to_contain_text("a gap to be filled in")
        page.get_by_label("Search").fill("money")
        expect(page.get_by_text("1 to 1 of 1 turns")).to_be_visible()
        for kind in ("JSONL", "CSV"):
            with page.expect_download() as found:
                button(page, kind).click()
            path = Path(found.value.path())
            assert found.value.suggested_filename == f"{run.id}.{kind.lower()}"
            text = path.read_text("utf-8")
            rows = [json.loads(text)] if kind == "JSONL" else list(csv.DictReader(text.splitlines()))
            assert [row["query"] for row in rows] == ["And when is my money back?"]
        page.get_by_label("Search").fill("nowhere to be found")
        expect(page.get_by_text("No turn passes the filters.")).to_be_visible()
        page.get_by_label("Search").fill("")
        choose_status(page, "All")
        page.get_by_label("Intent").click()
        page.get_by_role("option", name="returns (2)").click()
        expect(page.get_by_text("1 to 2 of 2 turns")).to_be_visible()

        page.get_by_label("Run or data set").click()
        page.get_by_role("option", name="References alone: helpdesk, validation").click()
        expect(page.get_by_role("radio", name=re.compile("^reference only"))).to_have_count(1)
        expect(button(page, "Save this reply")).to_be_hidden()


def test_edit_drop_and_train_again(served: str, run: Run, folder: Path, browser: Any) -> None:
    from playwright.sync_api import expect

    with open_page(browser, served) as page:
        box = page.get_by_label("The reply to learn")
        expect(box).to_have_value("You have 30 days, of course.", timeout=SLOW_MS)
        expect(button(page, "Train again")).to_be_disabled()
        box.fill("")
        button(page, "Save this reply").click()
        expect(page.get_by_role("alert")).to_contain_text("Type the reply to learn first.")
        box.fill("Half an idea")
        button(page, "Next turn").click()
        expect(box).to_have_value("Within 30 days of your return.")
        box.fill("Within 14 days of your return.")
        button(page, "Save this reply").click()
        expect(page.get_by_text("Saved.")).to_be_visible()
        expect(turn(page)).to_contain_text("✓ said 14 days")
        expect(button(page, "Train again with 1 edit")).to_be_enabled()
        button(page, "Previous turn").click()
        expect(page.get_by_text("This text is not saved yet.")).to_be_visible()
        expect(box).to_have_value("Half an idea")

        button(page, "Drop").click()
        expect(button(page, "Train again with 2 edits")).to_be_enabled()
        expect(page.get_by_role("radio", name="dropped by hand 1")).to_have_count(1)
        button(page, "Undo").click()
        expect(button(page, "Train again with 1 edit")).to_be_enabled()
        choose_status(page, "placeholder text")
        button(page, "Keep the teacher's reply").click()
        expect(turn(page)).to_contain_text("kept by hand")
        page.reload()
        train = button(page, "Train again with 2 edits")
        train.click(timeout=SLOW_MS)
        expect(page.get_by_text("Run desk-again has started.")).to_be_visible()
        train.click()
        expect(page.get_by_role("alert")).to_contain_text("Another run is under way.")

    job = load_job(folder / "started.yaml", check_files=False)
    assert job.curation.edits is not None
    edits = read_edits(job.curation.edits)
    assert [(e.conversation, e.turn, e.action, e.reply) for e in edits] == [
        ("hostile-1", 0, "keep", None),
        ("returns-1", 1, "replace", "Within 14 days of your return."),
    ]
    assert job.model_copy(update={"curation": run.job.curation}) == run.job


def test_a_visitor_of_a_public_page_cannot_edit(folder: Path, run: Run, browser: Any) -> None:
    from playwright.sync_api import expect

    need(CHROMIUM.exists(), f"there is no browser at {CHROMIUM} (apt-get install chromium)")
    with serve(folder, PAGE, DISTILLER_PUBLIC="1") as address, open_page(browser, address) as page:
        expect(turn(page)).to_contain_text("You have 30 days, of course.", timeout=SLOW_MS)
        expect(page.get_by_text("The owner of this page can edit these replies.")).to_be_visible()
        for name in ("Save this reply", "Drop", re.compile("^Train again")):
            expect(page.get_by_role("button", name=name)).to_be_hidden()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_on_a_phone_nothing_is_wider_than_the_window(served: str, browser: Any, theme: str) -> None:
    from playwright.sync_api import expect

    with open_page(browser, f"{served}?__theme={theme}", width=390, height=844) as page:
        expect(turn(page)).to_contain_text("You have 30 days", timeout=SLOW_MS)
        expect(page.locator(".data-chart svg.main-svg").first).to_be_visible(timeout=SLOW_MS)
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        page.locator("#data-table").get_by_role("gridcell").filter(has_text="money").click()
        expect(turn(page).locator(".focus .query")).to_contain_text("And when is my money back?")
        expect(page.locator("#data-heading")).to_be_in_viewport()
