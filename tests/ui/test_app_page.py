"""The app in a real browser, with the bundled models: battles, votes, a distillation from the form to its result."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client

from tests.ui.conftest import SLOW_MS, open_page
from ui.exchange import MAX_CHARACTERS
from ui.models import UNTRAINED

GREETING = "Hello <b>there</b>!"  # is shown as it was typed, and has a short reply
JOB = """name: tiny
teacher_model: bundled:smollm2-135m-instruct
student_model: teacher
training_data: datasets/helpdesk/train.jsonl
validation_data: datasets/helpdesk/validation.jsonl
test_data: datasets/helpdesk/test.jsonl
sample: {training: 4, validation: 2, test: 2, turns: 1}
teacher_sampling: {max_tokens: 16}
curation: {use_reference_for_dropped: true}
student: {layers: 2, vocabulary_size: 3000}
hyperparameters: {num_epochs: 1, batch_size: 2}
reference_trained: false
evaluation: {max_tokens: 8, timed_turns: 1}
"""


def open_tab(page: Any, name: str) -> None:
    page.get_by_role("tab").first.wait_for()
    tab = page.get_by_role("tab", name=name, exact=True)
    if not tab.is_visible():  # a narrow window keeps the last ones in a menu
        page.get_by_role("button", name="More tabs").click()
        tab = page.locator(".overflow-dropdown").get_by_role("button", name=name, exact=True)
    tab.click()


def ask(page: Any, query: str) -> None:
    page.get_by_label("Your question to both").fill(query)
    page.get_by_role("button", name="Send", exact=True).click()


def wait_for_replies(page: Any) -> None:
    from playwright.sync_api import expect

    for side in "AB":
        expect(page.locator(f"#figures-{side}")).to_contain_text(re.compile("Answered|tokens/s"), timeout=SLOW_MS)


def vote_button(page: Any, words: str) -> Any:
    return page.get_by_role("button", name=words, exact=True)


def test_a_blind_battle_of_two_turns_its_vote_and_its_link(page: Any, address: str, browser: Any) -> None:
    from playwright.sync_api import expect

    expect(vote_button(page, "A is better")).to_be_disabled()
    page.locator("#examples button").first.click()
    box = page.get_by_label("Your question to both")
    expect(box).not_to_have_value("")
    first = box.input_value()
    page.get_by_role("button", name="Send", exact=True).click()
    wait_for_replies(page)
    expect(box).not_to_have_value(re.compile(f"^({re.escape(first)})?$"))  # the customer's next line
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.locator("#chat-A .user.message")).to_have_count(2)
    wait_for_replies(page)
    expect(page.locator("#name-A")).to_have_text("Model A")
    expect(page.locator("#figures-A")).not_to_contain_text("tokens/s")  # times would give a side away
    expect(vote_button(page, "B is better")).to_be_enabled()
    vote_button(page, "B is better").click()
    expect(page.locator("#verdict")).to_contain_text("You found B better. Thank you", timeout=SLOW_MS)
    for side in "AB":
        expect(page.locator(f"#name-{side}")).to_contain_text(re.compile("of the shop|Untrained model"))
        expect(page.locator(f"#figures-{side}")).to_contain_text("Similarity to the reference", timeout=SLOW_MS)
    expect(vote_button(page, "B is better")).to_be_disabled()
    page.get_by_role("button", name="Copy the link", exact=True).click()
    # Without HTTPS a browser may keep the clipboard to itself; loopback counts as safe.
    expect(page.locator("#after")).to_contain_text(re.compile("Copied|address line"), timeout=SLOW_MS)


def test_two_visitors_at_once_each_have_their_own(page: Any, address: str, browser: Any) -> None:
    from playwright.sync_api import expect

    with open_page(browser, address) as other:
        ask(page, GREETING)
        ask(other, "Do you sell tea?")
        for visitor, words in ((page, GREETING), (other, "Do you sell tea?")):
            wait_for_replies(visitor)
            for side in "AB":
                expect(visitor.locator(f"#chat-{side} .user.message")).to_have_text(words)
                expect(visitor.locator(f"#chat-{side} .bot.message")).to_contain_text(re.compile(r"\w{2}"))
        vote_button(other, "Both are bad").click()
        expect(other.locator("#verdict")).to_contain_text("both bad", timeout=SLOW_MS)
        expect(vote_button(page, "A is better")).to_be_enabled()
        expect(page.locator("#name-A")).to_have_text("Model A")


def test_stop_ends_both_replies_and_what_cannot_be_sent_is_kept(page: Any) -> None:
    from playwright.sync_api import expect

    ask(page, "Tell me everything about your shop, in as many words as you can.")
    expect(page.locator("#figures-A, #figures-B").filter(has_text="Answering").first).to_be_visible(timeout=SLOW_MS)
    page.get_by_role("button", name="Stop", exact=True).first.click()
    for side in "AB":
        expect(page.locator(f"#figures-{side}")).to_contain_text(re.compile("Stopped|Answered"), timeout=SLOW_MS)

    ask(page, "x" * (MAX_CHARACTERS + 1))
    expect(page.get_by_role("alert").first).to_contain_text("2,001 characters", timeout=SLOW_MS)
    expect(page.get_by_label("Your question to both")).to_have_value("x" * (MAX_CHARACTERS + 1))


def test_named_models_show_their_figures_and_a_new_battle_is_empty(page: Any) -> None:
    from playwright.sync_api import expect

    page.get_by_label("Named models").check()
    expect(page.get_by_label("Contestant A")).to_be_visible()
    ask(page, GREETING)
    for side in "AB":
        expect(page.locator(f"#figures-{side}")).to_contain_text("tokens/s", timeout=SLOW_MS)
    expect(page.locator("#name-A")).to_contain_text("Student of the shop")
    expect(page.locator("#name-B")).to_contain_text("Teacher of the shop")
    page.get_by_role("button", name="New battle", exact=True).click()
    expect(page.locator(".chat .message")).to_have_count(0)


def test_a_distillation_from_the_form_to_its_result(page: Any, address: str, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    open_tab(page, "Distill")
    page.locator("#job-yaml .cm-content").click()
    page.keyboard.press("Control+a")
    page.keyboard.insert_text(JOB.replace("num_epochs", "num_epoch"))
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.locator("#job-problem")).to_contain_text("Did you mean", timeout=SLOW_MS)
    page.locator("#job-yaml .cm-content").click()
    page.keyboard.press("Control+a")
    page.keyboard.insert_text(JOB)
    page.get_by_label("Tokens to keep").click()  # leaving the YAML fills the form
    expect(page.get_by_label("Tokens to keep")).to_have_value("3000", timeout=SLOW_MS)
    page.get_by_label("Turns of each to take").fill("2")
    expect(page.locator("#job-yaml")).to_contain_text("turns: 2", timeout=SLOW_MS)
    page.get_by_label("Turns of each to take").fill("1")
    expect(page.locator("#job-yaml")).to_contain_text("turns: 1", timeout=SLOW_MS)
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.locator("#run-panel .state")).to_have_text("under way", timeout=SLOW_MS)

    page.reload()
    open_tab(page, "Distill")
    expect(page.locator("#run-panel")).to_contain_text("tiny-", timeout=SLOW_MS)
    expect(page.locator("#run-panel .state")).to_have_text("complete", timeout=2 * SLOW_MS)
    expect(page.locator("#run-panel")).to_contain_text("student")
    expect(page.locator("#runs")).to_contain_text("complete")
    expect(page.locator(".examples dl").first).to_contain_text("Customer")
    open_tab(page, "Leaderboard")
    page.get_by_role("button", name="Refresh", exact=True).click()
    expect(page.locator("#leaderboard")).to_contain_text("Student", timeout=SLOW_MS)


def test_a_bad_upload_is_refused_in_words(page: Any, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    open_tab(page, "Distill")
    page.get_by_role("button", name="Your own conversations").click()
    (tmp_path / "bad.jsonl").write_text("{broken\n")
    page.locator("#upload input[type=file]").set_input_files(tmp_path / "bad.jsonl")
    expect(page.locator(".data-problem").first).to_contain_text("Line 1: not JSON", timeout=SLOW_MS)


@pytest.mark.parametrize("tab", ["Arena", "Distill", "Data", "Evaluation", "Leaderboard", "About"])
def test_on_a_phone_nothing_runs_out_of_the_page(address: str, browser: Any, tab: str) -> None:
    with open_page(browser, address, 390, 800) as page:
        page.wait_for_timeout(1500)
        open_tab(page, tab)
        page.wait_for_timeout(1500)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_programs_talk_battle_and_vote(address: str) -> None:
    client = Client(address, verbose=False)
    shown = client.view_api(return_format="dict", print_info=False)
    assert set(shown["named_endpoints"]) == {"/chat", "/battle", "/vote", "/leaderboard", "/evaluate"}  # type: ignore[index]
    said = client.predict("Hi", UNTRAINED, api_name="/chat")
    assert said["reply"]
    assert said["model"] == UNTRAINED
    begun = client.predict("Hi", api_name="/battle")
    went_on = client.predict("And?", begun["battle_id"], begun["token"], api_name="/battle")
    assert went_on["battle_id"] == begun["battle_id"]
    with pytest.raises(Exception, match="token is another"):
        client.predict(begun["battle_id"], "guessed", "a", api_name="/vote")
    revealed = client.predict(begun["battle_id"], begun["token"], "a", api_name="/vote")
    assert revealed["model_a"] != revealed["model_b"]
    with pytest.raises(Exception, match="no such open battle"):
        client.predict(begun["battle_id"], begun["token"], "b", api_name="/vote")
    with pytest.raises(Exception, match="2,001 characters"):
        client.predict("x" * (MAX_CHARACTERS + 1), api_name="/chat")
    talk = [{"role": "user", "content": "Where is it?"}, {"role": "assistant", "content": "On its way."}]
    scored = client.predict([{"messages": talk}], UNTRAINED, api_name="/evaluate")
    assert scored["turns"][0]["reply"]
    assert -1 <= scored["scores"]["embedding_similarity"] <= 1
    with pytest.raises(Exception, match="1 to 20 in a call"):
        client.predict([{"messages": talk}] * 21, UNTRAINED, api_name="/evaluate")
