"""Pictures of every tab, light and dark, for docs/images: `make screenshots`. Shows the runs that there are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from benchmarks.app import ARGUMENTS, CHROMIUM, ROOT, open_page, start
from distiller.runs import runs_folder

IMAGES = ROOT / "docs/images"
TABS = ("Distill", "Data", "Evaluation", "Leaderboard", "About")
SIZE: Any = {"width": 1280, "height": 940}


def main() -> None:
    from playwright.sync_api import sync_playwright

    IMAGES.mkdir(parents=True, exist_ok=True)
    folder = Path(os.environ.get("DISTILLER_RUNS") or runs_folder()).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        server, address = start(folder)
        try:
            open_page(browser, address).close()
            for theme in ("light", "dark"):
                page = browser.new_page(viewport=SIZE)
                page.set_default_timeout(180_000)
                page.goto(f"{address}/?__theme={theme}")
                _battle(page)
                page.screenshot(path=IMAGES / f"arena-{theme}.png")
                for tab in TABS:
                    page.get_by_role("tab", name=tab, exact=True).click()
                    page.wait_for_timeout(5_000)  # charts are drawn
                    page.screenshot(path=IMAGES / f"{tab.lower()}-{theme}.png")
                page.close()
        finally:
            server.terminate()
            server.wait(60)
            (folder / "log").unlink(missing_ok=True)
        browser.close()


def _battle(page: Any) -> None:
    """A question, both replies and a vote: the names and the figures are shown."""
    page.wait_for_timeout(2_000)
    page.locator("#examples button").nth(1).click()
    page.wait_for_function("document.querySelector('#query textarea').value !== ''")
    page.get_by_role("button", name="Send", exact=True).click()
    page.get_by_role("button", name="A tie", exact=True).click()  # waits until both have answered
    page.wait_for_function("document.querySelector('#figures-A').innerText.includes('Similarity')")
    page.mouse.move(0, 0)


if __name__ == "__main__":
    main()
