"""What the Evaluation tab shows, without a page."""

from __future__ import annotations

import csv
import io
import json
import time
from pathlib import Path
from typing import Any

import pytest

from distiller.errors import DataError, DistillerError
from distiller.progress import Progress
from distiller.schema import write_jsonl
from evals.charts import MAX_INTENTS, charts
from tests.tiny import talk, talks
from tests.ui.reports import FACTS, HOSTILE, REFERENCE, WRONG, make_evaluation, make_report, make_run
from ui.differences import MAX_WORDS, mark, segments
from ui.evaluation_form import UPLOAD, asked, data_sets, preview_html
from ui.evaluation_html import SECTIONS, conversation_html, summary_html, table_html, work_html
from ui.evaluation_view import (
    Filters,
    Shelf,
    data_words,
    facts_of,
    find_report,
    list_reports,
    matching,
    name_of,
    outcomes,
    shown_models,
    table_csv,
    turns_csv,
    why_it_ended,
)
from ui.job_form import QUICKSTART
from ui.uploads import MAX_MB, columns_of, guess_columns, keep_upload, read_upload, uploads_folder

REPORT = make_report()
MODELS = [row["model"] for row in REPORT["rows"]]
TEACHER, STUDENT, BASELINE = MODELS


def passing(**filters: Any) -> list[tuple[str, int]]:
    turns = REPORT["conversations"]
    found = [place for _, places in matching(REPORT, Filters(**filters)) for place in sorted(places)]
    return [(turns[place]["conversation"], turns[place]["turn"]) for place in found]


# Differences.


def test_differing_words_are_marked_and_the_text_stays_whole() -> None:
    text = "Send it back within 14 calendar days; the label is in your account!"
    pieces = segments(text, REFERENCE)
    assert "".join(piece for piece, _ in pieces) == text
    assert [piece for piece, differs in pieces if differs] == ["14 calendar"]
    assert mark(REFERENCE, REFERENCE) == REFERENCE
    assert mark("SEND it back", "send it, back") == "SEND it back"
    assert mark("A <b>word</b> & more", "") == "<mark>A</mark> &lt;<mark>b&gt;word</mark>&lt;/<mark>b</mark>&gt; &amp; <mark>more</mark>"  # fmt: skip


def test_long_and_looping_replies_are_compared_quickly() -> None:
    began = time.perf_counter()
    for text in ("- a " * 5_000, "I am sorry. " * 2_000, "-" * 50_000, "x" * 50_000):
        assert "".join(piece for piece, _ in segments(text, "I sorry am a. " * MAX_WORDS)) == text
    assert time.perf_counter() - began < 5


# Which turns are shown.


def test_turns_are_filtered_by_intent_number_text_and_outcome() -> None:
    assert len(passing()) == 6
    assert passing(intent="delivery") == [("c-1", 1), ("c-1", 2)]
    assert passing(turn=2) == [("c-1", 2), ("c-2", 2), ("c-3", 2)]
    assert passing(text="C-2.1") == [("c-2", 1)]
    assert passing(outcome="wrong") == [("c-2", 1)]
    assert passing(outcome="right") == [("c-2", 2)]
    assert passing(outcome="mixed") == [("c-1", 1), ("c-1", 2), ("c-3", 1)]
    assert passing(outcome=f"only:{STUDENT}") == [("c-1", 2)]
    # What counts as "only" depends on who is looked at: without the baseline the student fails alone once more.
    assert passing(outcome=f"only:{STUDENT}", models=(TEACHER, STUDENT)) == [("c-1", 2), ("c-3", 1)]
    assert passing(text="kettle", intent="delivery", turn=1, outcome="mixed") == [("c-1", 1)]
    assert passing(text="nothing like it") == []


def test_a_conversation_comes_whole_with_the_turns_that_pass() -> None:
    [(places, found)] = matching(REPORT, Filters(text="c-2.1"))
    assert (list(places), found) == ([2, 3], {2})
    shown = conversation_html(REPORT, places, found, MODELS, "reference")
    assert shown.count('<details class="turn" open>') == 1
    assert shown.count('<details class="turn">') == 1


def test_outcomes_are_offered_where_something_was_judged() -> None:
    assert list(outcomes(REPORT, MODELS)) == ["", "mixed", "wrong", "right", *(f"only:{model}" for model in MODELS)]
    assert list(outcomes(REPORT | {"accuracy_kind": None}, MODELS)) == [""]
    assert shown_models(REPORT, Filters(models=(BASELINE, TEACHER))) == [TEACHER, BASELINE]
    assert shown_models(REPORT, Filters(models=("gone",))) == MODELS


def test_models_are_called_by_as_much_of_their_name_as_tells_them_apart() -> None:
    names = ["run:a/student", "run:b/student", "hf:/x/tiny", "hf:/y/tiny", "openai:gpt@https://secret.example/v1"]
    rows = [{"model": name, "role": "student" if name.startswith("run:") else None} for name in names]
    called = list(name_of({"rows": rows}).values())
    assert called == ["Student · a", "Student · b", "hf:/x/tiny", "hf:/y/tiny", "gpt"]


def test_facts_are_told_by_what_a_reply_does_with_them() -> None:
    turn = {"facts": FACTS}
    reply = {"text": WRONG, "missing": ["30 days"], "forbidden": ["free of charge"]}
    assert facts_of(turn, reply) == {
        "stated": ["in your account"],
        "missing": ["30 days"],
        "forbidden": ["free of charge"],
    }


def test_ten_thousand_turns_are_quick() -> None:
    few = REPORT["conversations"]
    many = [turn | {"conversation": f"{k}-{turn['conversation']}"} for k in range(1667) for turn in few]
    large = REPORT | {"conversations": many}
    began = time.perf_counter()
    found = matching(large, Filters(text="kettle", outcome="mixed", intent="delivery"))
    conversation_html(large, *found[-1], MODELS, "reference")
    assert len(found) == 1667
    assert time.perf_counter() - began < 1.5


# HTML.


def test_nothing_of_data_or_models_becomes_html() -> None:
    hostile = json.loads(json.dumps(REPORT).replace("kettle", HOSTILE.replace('"', "'")).replace("desk-1", "<i>x</i>"))
    hostile["verdicts"] = [HOSTILE]
    models = [row["model"] for row in hostile["rows"]]
    html = summary_html(hostile) + table_html(hostile)
    html += "".join(conversation_html(hostile, *one, models, TEACHER) for one in matching(hostile, Filters()))
    assert "<img" not in html
    assert "<b>bold" not in html
    assert "<i>x" not in html
    assert "&lt;img" in html
    assert "&lt;b&gt;returns" in charts(REPORT)[-1].to_json().replace("\\u0026", "&")


def test_a_reply_shows_its_verdict_its_differences_and_the_facts_it_left_out() -> None:
    html = conversation_html(REPORT, range(1, 2), {1}, [STUDENT], "reference")
    assert "✗ not correct" in html
    assert "<mark>14</mark>" in html
    assert "✗ left out: 30 days" in html
    assert "<mark>" not in conversation_html(REPORT, range(1, 2), {1}, [STUDENT], "")
    assert "<mark>" not in conversation_html(REPORT, range(1, 2), {1}, [TEACHER], TEACHER)


def test_the_table_has_every_figure_with_its_meaning_and_interval() -> None:
    html = table_html(REPORT)
    assert "<td>80.0%<small>70.0–90.0</small></td>" in html
    assert 'title="Time to first token: how long until the first text of a reply appears, median;' in html
    assert "<span>Other</span>" not in html  # each column stands in a section
    assert len({key for keys in SECTIONS.values() for key in keys}) == sum(map(len, SECTIONS.values()))


def test_charts_have_one_heat_map_cut_to_the_largest_intents() -> None:
    group = {"judged": 2, "accuracy": 0.5, "embedding_similarity": 0.6}
    many = {f"intent {k}": {"n": k, **group} for k in range(MAX_INTENTS + 5)}
    wide = REPORT | {"groups": {model: {"intent": many, "turn": {"1": {"n": 1, **group}}} for model in MODELS}}
    figures = charts(wide)
    assert len(figures) == 4  # one turn only: nothing to draw by turn
    assert f"the {MAX_INTENTS} largest of {MAX_INTENTS + 5}" in figures[-1].layout.title.text
    unscored = [row | {"accuracy": None, "embedding_similarity": None} for row in REPORT["rows"]]
    assert charts(REPORT | {"accuracy_kind": None, "rows": unscored}) == []


# Files.


def test_csv_has_the_figures_and_the_replies_and_runs_no_formula() -> None:
    table = list(csv.DictReader(io.StringIO(table_csv(REPORT).removeprefix("\ufeff"))))
    assert [row["role"] for row in table] == ["teacher", "student", "baseline"]
    assert (table[0]["accuracy"], table[0]["accuracy_low"], table[0]["teacher_bleu"]) == (
        "0.8",
        "0.7000000000000001",
        "",
    )
    turn = REPORT["conversations"][0] | {"query": "=1+1", "reference": None}
    rows = list(csv.DictReader(io.StringIO(turns_csv(REPORT | {"conversations": [turn]}).removeprefix("\ufeff"))))
    assert [row["correct"] for row in rows] == ["True", "True", "False"]
    assert rows[0]["query"] == "'=1+1"
    assert rows[2]["left_out"] == "30 days; in your account"


def test_reports_are_listed_newest_first_and_an_evaluation_only_to_the_owner() -> None:
    run, shelf = make_run(), Shelf()
    make_evaluation("helpdesk-1")
    (evaluation, finished) = list_reports(shelf, owner=True)
    assert (evaluation.id, evaluation.state) == ("evaluations/helpdesk-1", "stopped")
    assert evaluation.label == "Stopped: tiny, a.jsonl on helpdesk (test set)"
    assert finished.label == f"Run {run.id} · 6 turns · 2026-11-25 10:11"
    assert [entry.id for entry in list_reports(shelf, owner=False)] == [run.id]
    with pytest.raises(DataError, match="any more"):
        find_report(shelf, "evaluations/helpdesk-1", owner=False)
    with pytest.raises(DataError, match="any more"):
        find_report(shelf, f"../{run.folder.parent.name}/{run.id}", owner=True)


def test_a_report_is_read_once_until_it_changes_and_a_broken_one_says_so() -> None:
    run, shelf = make_run(), Shelf()
    entry = find_report(shelf, run.id, owner=False)
    assert shelf.read(entry) is shelf.read(entry)
    path = run.path("report.json")
    path.write_text('{"title": "half')
    [entry] = list_reports(shelf, owner=False)  # it stays in the list, and the page stays up
    with pytest.raises(DataError, match=f"The report of {run.id} cannot be read"):
        shelf.read(entry)
    path.write_text(json.dumps({"title": "another program's"}))
    with pytest.raises(DataError, match="it has no 'created'"):
        shelf.read(entry)


def test_an_evaluation_says_how_far_it_is_and_why_it_ended() -> None:
    folder, shelf = make_evaluation("helpdesk-2"), Shelf()
    progress = Progress(folder / "events.jsonl", quiet=True)
    with pytest.raises(DataError), progress.work(), progress.track("tiny answers", 9, "replies"):  # noqa: PT012
        [entry] = list_reports(shelf, owner=True)
        raise DataError("the data <b>ended</b>")
    [entry] = list_reports(shelf, owner=True)
    from distiller.watch import Watch

    watch = Watch(folder).refresh()
    assert entry.label == "Failed: tiny, a.jsonl on helpdesk (test set)"
    html = work_html(entry, watch, ["a"], why_it_ended(folder, watch))
    assert "the data &lt;b&gt;ended&lt;/b&gt;" in html
    (folder / "events.jsonl").unlink()
    (folder / "log.txt").write_text("…\nError: there is no run 'x'\n")
    assert why_it_ended(folder, Watch(folder).refresh()) == "Error: there is no run 'x'"


def test_data_is_called_by_where_it_lies(runs_folder: Path) -> None:
    assert data_words(Path("runs/desk-1/data/test.jsonl")) == "desk-1 (test set)"
    assert data_words(Path("datasets/helpdesk/test.jsonl")) == "helpdesk (test set)"
    assert data_words(uploads_folder() / "my-tickets-0123456789ab.jsonl") == "my-tickets (uploaded)"


# Uploads and the form.


def write_csv(folder: Path, text: str, name: str = "My tickets.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_columns_are_guessed_and_rows_of_a_ticket_become_a_conversation(tmp_path: Path) -> None:
    path = write_csv(
        tmp_path, "Ticket ID;Customer Question;Agent Reply;Topic\n1;Hello?;Hi.;x\n1;And now?;Wait.;x\n2;;?;y\n"
    )
    guess = guess_columns(columns_of(path))
    assert guess == {
        "user": "Customer Question",
        "assistant": "Agent Reply",
        "intent": "Topic",
        "conversation": "Ticket ID",
    }
    upload = read_upload(path, guess)
    assert [(c.id, len(c.messages), c.intent) for c in upload.conversations] == [("1", 4, "x")]
    assert [line.line for line in upload.bad] == [4]
    assert "1 line left out (line 4: no message of the user)" in preview_html(upload.conversations, upload.bad)
    kept = keep_upload(upload)
    assert kept.parent == uploads_folder()
    assert kept == keep_upload(upload)
    assert kept.name.startswith("My-tickets-")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", b"x", "has to be one of .jsonl"),
        ("a.jsonl", b"", "a.jsonl: holds no conversation"),
        ("a.jsonl", b'{"no": 1}\n', "say which column holds the customer's message"),
        ("a.jsonl", b"{broken\n", "Line 1: not JSON"),
        ("a.jsonl", b"\xff\xfe\n", "not UTF-8"),
        ("a.csv", b"q,a\nx,y\n", "say which column holds the customer's message"),
        ("a.jsonl", b" " * (MAX_MB * 1_000_000 + 1), "at most 20 MB"),
    ],
)
def test_a_bad_upload_is_refused_in_words_that_name_no_folder(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_upload(path, {})
    assert words in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_an_upload_is_named_by_its_content_whatever_it_is_called(tmp_path: Path) -> None:
    path = tmp_path / "..; rm -rf.jsonl"
    write_jsonl(path, talks(1))
    kept = keep_upload(read_upload(path, {}))
    assert kept.parent == uploads_folder()
    assert kept.name.startswith("rm-rf-")


def form(**changes: Any) -> dict[str, Any]:
    value: dict[str, Any] = {
        "models": ["bundled:x", "bundled:x"],
        "data": "helpdesk: test set that ships",
        "file": None,
    }
    return value | {"columns": {}, "conversations": 0, "max_tokens": 8, "timed_turns": 2} | changes


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"models": []}, "at least one model"),
        ({"models": ["nonsense"]}, "'nonsense' is no model name"),
        ({"models": ["hf:a,hf:b"]}, "without commas"),
        ({"models": ["recorded:/none.jsonl"]}, "there is no file"),
        ({"models": ["run:none/student"]}, "There is no run 'none'"),
        ({"models": [f"bundled:{k}" for k in range(9)]}, "at most 8"),
        ({"data": "something else"}, "Choose the conversations"),
        ({"data": UPLOAD}, "Upload a file first"),
        ({"max_tokens": 0}, "Longest reply: 0 was given; it has to be a whole number from 1 to"),
        ({"timed_turns": None}, "Timed turns: nothing was given"),
        ({"conversations": 2.5}, "Conversations: 2.5 was given"),
    ],
)
def test_what_cannot_be_started_says_what_to_mend(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(DistillerError, match=words):
        asked(**form(**changes))


def test_a_form_becomes_the_options_of_an_evaluation() -> None:
    run = make_run()
    write_jsonl(run.path("data", "test.jsonl"), talks(2))
    write_jsonl(run.path("data", "train.jsonl"), talks(2))
    shipped = asked(**form())
    assert shipped.models == ["bundled:x"]
    # Models of no run are told what the shop's student is told, its policy lines included.
    assert shipped.options == ["--limit=0", "--max-tokens=8", "--timed-turns=2", f"--job={QUICKSTART}"]
    of_run = asked(**form(data=f"Run {run.id}: its test set"))
    assert of_run.data == run.path("data", "test.jsonl")
    # Without facts, replies are judged by the training set's; what models of no run are told is the job's prompt.
    assert of_run.options[3:] == [
        f"--system-prompt={run.job.system_prompt}",
        f"--training={run.path('data', 'train.jsonl')}",
    ]
    write_jsonl(run.path("data", "test.jsonl"), [talk("a", "Hello?", "Hi there.", facts=[[["Hi there"]]])])
    assert asked(**form(data=f"Run {run.id}: its test set")).options[3:] == [f"--system-prompt={run.job.system_prompt}"]
    assert next(iter(data_sets())).startswith("Run ")
