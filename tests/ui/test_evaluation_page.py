"""The Evaluation tab in a real browser: its reports are read, an evaluation goes from the form to its report."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from distiller.schema import write_jsonl
from evals.background import evaluations_folder
from tests.conftest import PROJECT
from tests.tiny import talk
from tests.ui.reports import HOSTILE, make_evaluation, make_run

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
SLOW_MS = 120_000  # two cores, and other work beside this
PAGE = """
import gradio as gr
from ui.app import CSS, theme
from ui.evaluation_tab import CSS as EVALUATION_CSS, build_evaluation_tab
with gr.Blocks(title="Evaluation", analytics_enabled=False) as page:
    build_evaluation_tab(page)
page.launch(theme=theme(), css=CSS + EVALUATION_CSS, ssr_mode=False)
"""


@contextmanager
def served(folder: Path, **environment: str) -> Iterator[Callable[[], str]]:
    """Starts the page; the function that is given waits for it and returns its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    known = {key: value for key, value in os.environ.items() if key not in {"SPACE_ID", "DISTILLER_PUBLIC"}}
    known |= {"GRADIO_SERVER_PORT": str(port), "GRADIO_ANALYTICS_ENABLED": "False", "PYTHONPATH": str(PROJECT)}
    known |= {"GRADIO_TEMP_DIR": str(folder / "gradio"), **environment}
    log = folder / f"log-{port}"
    with log.open("w") as file:
        server = subprocess.Popen(
            [sys.executable, "-c", PAGE], cwd=PROJECT, env=known, stdout=file, stderr=subprocess.STDOUT
        )
    address = f"http://127.0.0.1:{port}"

    def ready() -> str:
        deadline = time.monotonic() + SLOW_MS / 1000
        while time.monotonic() < deadline and server.poll() is None:
            try:
                urllib.request.urlopen(address, timeout=5).close()
                return address
            except OSError:
                time.sleep(0.2)
        pytest.fail(f"the page did not start:\n{log.read_text()}")

    try:
        yield ready
    finally:
        server.terminate()
        server.wait(30)
    assert "Traceback" not in log.read_text()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if not CHROMIUM.exists():
        words = f"there is no browser at {CHROMIUM} (apt-get install chromium)"
        pytest.fail(words) if os.environ.get("CI") else pytest.skip(words)
    folder = tmp_path_factory.mktemp("evaluation")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("DISTILLER_RUNS", str(folder / "runs"))
        make_run()
        yield folder


@pytest.fixture(autouse=True)
def runs_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page's own, instead of an empty one for each test."""
    monkeypatch.setenv("DISTILLER_RUNS", str(folder / "runs"))
    return folder / "runs"


@pytest.fixture(scope="module")
def addresses(folder: Path) -> Iterator[tuple[Callable[[], str], Callable[[], str]]]:
    """The page as its owner and as a visitor of a public one sees it; both start at the same time."""
    with served(folder) as owner, served(folder, DISTILLER_PUBLIC="1", DISTILLER_SALT="x") as visitor:
        yield owner, visitor


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=SLOW_MS)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser: Any, addresses: Any) -> Iterator[Callable[..., Any]]:
    """Opens the page. What the browser's console calls an error fails the test, and so does a call to elsewhere."""
    wrong: list[str] = []
    pages: list[Any] = []
    elsewhere = re.compile(r"^(?!http://127\.0\.0\.1:|data:|blob:)")

    def open_page(width: int = 1280, theme: str = "light", *, visitor: bool = False) -> Any:
        page = browser.new_page(viewport={"width": width, "height": 860})
        page.set_default_timeout(SLOW_MS)
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: wrong.append(request.url) if elsewhere.match(request.url) else None)
        page.goto(f"{addresses[visitor]()}?__theme={theme}")
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert wrong == []


def sideways(page: Any) -> int:
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def test_a_report_is_read_browsed_and_taken_away(opened: Any) -> None:
    from playwright.sync_api import expect

    page = opened()
    expect(page.locator("#evaluation .verdicts")).to_contain_text("keeps 69% of the teacher's accuracy")
    page.wait_for_timeout(1_000)  # what the parts say when they are drawn has come
    expect(page.locator("#evaluation").get_by_role("alert")).to_have_count(0)
    row = page.get_by_role("row", name="accuracy")
    expect(row.first).to_contain_text("55.0%")
    expect(page.get_by_role("rowheader", name="TTFT p50")).to_have_attribute("title", re.compile("first text"))

    page.get_by_role("tab", name="Charts").click()
    expect(page.locator("#evaluation-charts .js-plotly-plot")).to_have_count(5)

    page.get_by_role("tab", name="Conversations").click()
    place = page.locator("#evaluation-pager")
    expect(place).to_contain_text("Conversation 1 of 3")
    student = page.locator("#evaluation article", has_text="student").nth(1)
    expect(student).to_contain_text("✗ left out: 30 days")
    expect(student.locator("mark")).to_have_text(["You can", "14"])
    for number in (2, 3):
        page.get_by_role("button", name="Next →").click()
        expect(place).to_contain_text(f"Conversation {number} of 3")
    expect(page.get_by_role("button", name="Next →")).to_be_disabled()
    expect(page.locator("#evaluation article").last).to_contain_text(HOSTILE)
    assert page.title() == "Evaluation"

    page.get_by_label("Right or wrong").click()
    page.get_by_role("option", name="Only student wrong").click()
    expect(place).to_contain_text("Conversation 1 of 1, 1 of 6 turns match")
    page.get_by_role("checkbox", name="baseline").uncheck()
    expect(place).to_contain_text("Conversation 1 of 2, 2 of 6 turns match")
    page.get_by_label("Search").fill("no such words")
    expect(place).to_contain_text("Nothing matches")

    for name, ending in (("Table, CSV", "table.csv"), ("Replies, CSV", "turns.csv"), ("All, HTML", "report.html")):
        with page.expect_download() as download:
            page.get_by_role("button", name=name).click()
        assert download.value.suggested_filename.endswith(ending)
    with page.expect_download() as download:
        page.get_by_role("button", name="All, JSON").click()
    assert json.loads(Path(download.value.path()).read_text())["accuracy_kind"] == "facts"


def test_it_fits_a_phone_and_is_dark_at_night(opened: Any) -> None:
    from playwright.sync_api import expect

    page = opened(390, "dark")
    expect(page.locator("#evaluation .verdicts")).to_be_visible()
    for name in ("Results", "Charts", "Conversations"):
        page.get_by_role("tab", name=name).click()
        expect(page.get_by_role("tab", name=name)).to_have_attribute("aria-selected", "true")
        assert sideways(page) == 0
    page.get_by_role("tab", name="Charts").click()
    title = page.locator("#evaluation-charts .gtitle").first
    expect(title).to_be_visible()
    light = page.evaluate("getComputedStyle(document.querySelector('#evaluation-charts .gtitle')).fill")
    assert all(int(part) > 180 for part in re.findall(r"\d+", light)[:3]), light
    page.get_by_role("button", name="New evaluation").click()
    expect(page.get_by_role("button", name="Start", exact=True)).to_be_visible()
    assert sideways(page) == 0


def choose_models(page: Any, *names: str) -> None:
    page.get_by_role("button", name="New evaluation").click()
    box = page.locator("#evaluation-models")
    while box.locator(".token-remove:not(.remove-all)").count():
        box.locator(".token-remove:not(.remove-all)").first.click()
    for name in names:
        box.locator("input").fill(name)
        box.locator("input").press("Enter")
    page.get_by_label("Conversations to answer").click()
    page.get_by_role("option", name="A file of my own (upload)").click()


def upload(page: Any, name: str, content: str) -> None:
    file = {"name": name, "mimeType": "text/plain", "buffer": content.encode()}
    page.locator("#evaluation-file input[type=file]").set_input_files(file)


def test_what_cannot_be_started_is_said_in_place_and_kept(opened: Any) -> None:
    from playwright.sync_api import expect

    before = list(evaluations_folder().glob("*"))
    page = opened()
    choose_models(page, "nonsense")
    upload(page, "broken.jsonl", "{no json}\n")
    expect(page.locator("#evaluation-preview")).to_contain_text("broken.jsonl: no line can be read. Line 1: not JSON")
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.locator("#evaluation-form-notice")).to_contain_text("'nonsense' is no model name")
    expect(page.locator("#evaluation-models")).to_contain_text("nonsense")

    page.locator("#evaluation-file").get_by_role("button", name="Clear").click()
    expect(page.locator("#evaluation-preview")).to_contain_text("at most 20 MB")
    upload(page, "tickets.csv", "Customer Question,Agent Reply\n<b>Where</b> is it?,On its way.\n")
    expect(page.get_by_label("Customer's message")).to_have_value("Customer Question")
    expect(page.get_by_label("Your team's reply")).to_have_value("Agent Reply")
    expect(page.locator("#evaluation-preview")).to_contain_text("1 conversation, 1 turn.")
    page.get_by_text("How it begins").click()
    expect(page.locator("#evaluation-preview")).to_contain_text("<b>Where</b> is it?")
    assert list(evaluations_folder().glob("*")) == before


def test_an_evaluation_goes_on_over_a_reload_to_its_report(opened: Any, folder: Path, tiny_model: Path) -> None:
    from playwright.sync_api import expect

    data = [talk(f"c{k}", f"Where is parcel {k}?", "It ships today.", facts=[[["ships today"]]]) for k in range(3)]
    recorded = folder / "recorded.jsonl"
    write_jsonl(recorded, data)
    page = opened()
    choose_models(page, f"hf:{tiny_model}", f"recorded:{recorded}")
    upload(page, "parcels.jsonl", recorded.read_text())
    expect(page.locator("#evaluation-preview")).to_contain_text("3 of the turns name facts")
    page.get_by_label("Longest reply, tokens").fill("6")
    page.get_by_label("Timed turns").fill("1")
    page.get_by_role("button", name="Start", exact=True).click()
    work = page.locator("#evaluation .work")
    expect(work).to_contain_text("Running: tiny, recorded.jsonl on parcels (uploaded)")
    page.reload()
    expect(work).to_contain_text("Running: tiny, recorded.jsonl on parcels (uploaded)")
    expect(work.get_by_role("progressbar")).to_be_visible()

    expect(page.locator("#evaluation .verdicts")).to_contain_text(re.compile("recorded.* beats hf:.* in accuracy"))
    expect(work).to_have_count(0)
    expect(page.get_by_label("Report", exact=True)).to_have_value(re.compile("tiny, recorded.jsonl on parcels"))
    row = page.get_by_role("row", name="accuracy").first
    expect(row).to_contain_text("100.0%")


def test_a_visitor_sees_the_runs_report_and_starts_nothing(opened: Any, addresses: Any) -> None:
    from playwright.sync_api import expect

    make_evaluation("private-1")
    page = opened(visitor=True)
    expect(page.locator("#evaluation .verdicts")).to_contain_text("keeps 69%")
    expect(page.get_by_text("New evaluation")).to_have_count(0)
    page.get_by_label("Report", exact=True).click()
    expect(page.get_by_role("option")).to_have_count(1)

    before = set(evaluations_folder().iterdir())
    address = addresses[1]()
    assert "private-1" not in urllib.request.urlopen(f"{address}/config").read().decode()
    values = [["bundled:smollm2-135m-instruct"], None, None, *["–"] * 4, 1, 1, 1]
    assert "is for the owner of this page" in call(address, "evaluation-start", values)
    assert "is for the owner of this page" in call(address, "evaluation-go-on", [None])
    assert set(evaluations_folder().iterdir()) == before


def call(address: str, button: str, values: list[Any]) -> str:
    """What an event answers to someone who sends it without the page."""
    config = json.loads(urllib.request.urlopen(f"{address}/config").read())
    component = next(c["id"] for c in config["components"] if c["props"].get("elem_id") == button)
    event = next(d["id"] for d in config["dependencies"] if [component, "click"] in d["targets"])
    sent = {"data": values, "fn_index": event, "session_hash": button}
    request = urllib.request.Request(
        f"{address}/gradio_api/queue/join", json.dumps(sent).encode(), {"Content-Type": "application/json"}
    )
    urllib.request.urlopen(request).close()
    with urllib.request.urlopen(f"{address}/gradio_api/queue/data?session_hash={button}", timeout=60) as stream:
        return next(line for line in map(bytes.decode, stream) if "process_completed" in line)
