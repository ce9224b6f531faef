"""The page: how long until it stands, and what it adds to a model's own time to first token.

Both are measured in a real Chromium on loopback. What is added is the time from the click on Send until the first
word of the reply stands in the page, less the engine's own (from asking the model, its retrieval included, to its
first text), which the database keeps for every turn.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import Figure, write_result
from evals.votes import VoteStore

ROOT = Path(__file__).parents[1]
CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
STARTS, WARM_UP, QUESTIONS = 3, 3, 20
QUERIES = (
    "Can I return opened earbuds?",
    "Where is my parcel?",
    "How do I reset my watch?",
    "My card was declined.",
    "Do you ship to islands?",
)
#: Notes when Send was pressed and when the first word of each side's last reply came.
STOPWATCH = """() => {
  window.sent = null; window.first = {};
  document.addEventListener('click', (event) => {
    if (event.target.closest('button')?.textContent.trim() === 'Send') { window.sent = performance.now(); window.first = {}; }
  }, true);
  new MutationObserver(() => {
    for (const side of ['A', 'B']) {
      const said = [...document.querySelectorAll(`#chat-${side} .bot.message`)].at(-1)?.innerText.trim();
      if (window.sent && said && said !== '…' && !(side in window.first)) window.first[side] = performance.now() - window.sent;
    }
  }).observe(document.body, {subtree: true, childList: true, characterData: true});
}"""


def start(folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"DISTILLER_RUNS": str(folder), "GRADIO_SERVER_PORT": str(port)}
    log = (folder / "log").open("wb")
    server = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=environment, stdout=log, stderr=log)
    return server, f"http://127.0.0.1:{port}"


def open_page(browser: Any, address: str) -> Any:
    """The page as soon as its server answers and Send can be pressed."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    while True:
        try:
            page.goto(address)
            break
        except Exception:  # not there yet
            time.sleep(0.05)
    page.get_by_role("button", name="Send", exact=True).wait_for(timeout=120_000)
    return page


def first_page_s(browser: Any) -> float:
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        server, address = start(Path(folder))
        try:
            open_page(browser, address).close()
            return time.perf_counter() - began
        finally:
            server.terminate()
            server.wait(60)


def added_ttft_ms(browser: Any) -> list[float]:
    """Of both sides of QUESTIONS battles, after the warm-up."""
    with tempfile.TemporaryDirectory() as folder:
        server, address = start(Path(folder))
        try:
            page = open_page(browser, address)
            page.set_default_timeout(90_000)
            page.wait_for_timeout(2_000)  # what the page asks for when it opens has come
            page.get_by_label("Named models").check()
            page.get_by_label("Contestant A").wait_for()
            page.evaluate(STOPWATCH)
            seen = [_ask(page, QUERIES[k % len(QUERIES)]) for k in range(WARM_UP + QUESTIONS)]
            page.close()
            own = _own_ttft_ms(Path(folder))
            return [
                said[side] - engine[side]
                for said, engine in zip(seen[WARM_UP:], own[WARM_UP:], strict=True)
                for side in "AB"
            ]
        finally:
            server.terminate()
            server.wait(60)


def _ask(page: Any, query: str) -> dict[str, float]:
    page.get_by_role("button", name="New battle", exact=True).click()
    page.wait_for_function("document.querySelector('#verdict').innerText.includes('as soon as both')")
    page.get_by_label("Your question to both").fill(query)
    page.get_by_role("button", name="Send", exact=True).click()
    page.wait_for_function("Object.keys(window.first).length === 2")
    page.get_by_role("button", name="A is better", exact=True).click()  # waits until both have answered
    page.wait_for_function("document.querySelector('#verdict').innerText.includes('You found A better')")
    return page.evaluate("window.first")


def _own_ttft_ms(folder: Path) -> list[dict[str, float]]:
    """Of each battle's turn, the oldest first."""
    store = VoteStore(f"sqlite:///{folder / 'arena.sqlite'}")
    table = store.votes_table()
    battles = [store.battle(battle).turns[0] for battle in table["battle"][::-1]]
    store.close()
    return [{"A": 1000 * (turn.a.ttft_s or 0.0), "B": 1000 * (turn.b.ttft_s or 0.0)} for turn in battles]


def main() -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        starts = [first_page_s(browser) for _ in range(STARTS)]
        added = added_ttft_ms(browser)
        browser.close()
    write_result(
        "app",
        "python -m benchmarks.app",
        {
            "first_page_s": Figure(round(statistics.median(starts), 2), "s", 10, [round(s, 2) for s in starts]),
            "added_ttft_ms": Figure(round(statistics.median(added), 1), "ms", 50, [round(ms, 1) for ms in added]),
        },
    )


if __name__ == "__main__":
    main()
