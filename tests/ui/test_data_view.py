"""What the Data tab shows, without a page: the join of a run's files, hand edits laid over it, filters, downloads."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest

from distiller.curate import FILTERS
from distiller.edits import APPLIED, Edit, append_edit
from distiller.errors import DataError
from distiller.runs import list_runs
from distiller.schema import write_jsonl
from tests.conftest import PROJECT
from tests.fabricated import FILLERS, HOSTILE, make_run
from ui.data_charts import intent_chart, length_chart, reason_chart
from ui.data_source import DataCache, read_source, sources
from ui.data_view import Filters, edits_file, record, select, status_choices, taken_back, to_csv, waiting
from ui.data_words import MEANING, turn_html

TURNS = 2 + 1 + FILLERS + 2
WRONG = ("train", "returns-1", 1)


def edit(key: tuple[str, str, int], action: str, reply: str | None = None) -> Edit:
    split, conversation, turn = key
    value = {"split": split, "conversation": conversation, "turn": turn, "action": action, "reply": reply}
    return Edit.model_validate(value)


def test_every_turn_is_joined_with_its_reference_and_its_fate(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    assert sources(list_runs())[0] == (f"{run.id} (complete)", f"run:{run.id}")
    data = read_source(f"run:{run.id}")
    assert (len(data.rows), data.note) == (TURNS, "")
    first, second = data.rows[:2]
    assert (first.query, first.reply, first.reference) == (
        "How long can I return it?",
        "You have 30 days, of course.",
        "You have 30 days.",
    )
    assert (first.status, first.intent, first.facts, first.turns) == (
        "kept",
        "returns",
        (("30 days", "thirty days"),),
        2,
    )
    assert second.policy == "- Policy line 1.\n- Another line."
    assert (second.key, second.status) == (WRONG, "contradicted fact")
    assert {row.split for row in data.rows[-2:]} == {"validation"}

    run.path("dropped.jsonl").unlink()
    assert read_source(f"run:{run.id}").rows[1].status == "reason not recorded"


@pytest.mark.parametrize(
    ("until", "words", "status"),
    [
        ("prepare", r"answered 0 of \d+ questions", "no reply yet"),
        ("generate", "have not been checked yet", "not checked yet"),
    ],
)
def test_a_run_under_way_shows_what_is_there(tmp_path: Path, until: str, words: str, status: str) -> None:
    run = make_run(tmp_path, until=until)
    data = read_source(f"run:{run.id}")
    assert re.search(words, data.note)
    assert {row.status for row in data.rows} == {status}
    assert f"run:{run.id}" not in [source for _, source in sources(list_runs(), unfinished=False)]


def test_half_a_file_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    run = make_run(tmp_path, until="generate")
    path = run.path("synthetic.train.jsonl")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    data = read_source(f"run:{run.id}")
    unanswered = sum(row.reply is None for row in data.rows)
    assert 0 < unanswered < TURNS
    assert f"answered {TURNS - unanswered} of {TURNS} questions so far" in data.note
    path.write_bytes(b"not json\n" + content)
    with pytest.raises(DataError, match=r"synthetic\.train\.jsonl:1: not JSON"):
        read_source(f"run:{run.id}")
    path.write_bytes(b'{"id": "x"}\n')
    with pytest.raises(DataError, match="not as a run writes them"):
        read_source(f"run:{run.id}")
    path.unlink()
    path.mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        read_source(f"run:{run.id}")


def test_a_run_without_data_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path, until="prepare")
    for path in run.path("data").iterdir():
        path.unlink()
    assert "has not read its conversations yet" in read_source(f"run:{run.id}").note


def test_references_alone_can_be_browsed_and_not_edited() -> None:
    offered = [source for _, source in sources(list_runs())]
    assert "data:helpdesk/train" in offered
    for source in offered:
        data = read_source(source)
        assert data.rows
        assert {row.status for row in data.rows} == {"reference only"}
        with pytest.raises(DataError, match="only the replies of a run can be edited"):
            edits_file(data)
    path = PROJECT / "datasets" / "helpdesk" / "validation.jsonl"
    lines = path.read_text("utf-8").splitlines()
    assert len({row.conversation for row in read_source("data:helpdesk/validation").rows}) == len(lines)


def test_what_was_read_is_kept_until_its_files_change(tmp_path: Path) -> None:
    run = make_run(tmp_path, until="generate")
    source, cache = f"run:{run.id}", DataCache(limit=1)
    first = cache.get(source)
    assert cache.get(source, fresh=True) is first
    make_run(tmp_path)
    assert cache.get(source) is first
    assert cache.get(source, fresh=True) is not first
    other = cache.get("data:qa/train")
    assert cache.get("data:qa/train") is other
    assert cache.get(source) is not first  # one at most is kept


def test_filters_and_counts_agree(tmp_path: Path) -> None:
    data = read_source(f"run:{make_run(tmp_path).id}")
    places, counts = select(data, {}, Filters())
    assert places == list(range(TURNS))
    assert counts == {"kept": TURNS - 2, "contradicted fact": 1, "placeholder text": 1}
    choices = [("all", TURNS), ("kept", TURNS - 2), ("dropped", 2), ("contradicted fact", 1), ("placeholder text", 1)]
    assert status_choices(counts) == choices
    for filters, expected in (
        (Filters(status="dropped"), [1, 2]),
        (Filters(status="contradicted fact"), [1]),
        (Filters(intent="returns"), [0, 1]),
        (Filters(intent="returns", status="kept"), [0]),
        (Filters(split="validation"), [TURNS - 2, TURNS - 1]),
        (Filters(text="  OF YOUR return "), [1]),
        (Filters(text="returns-1"), [0, 1]),
        (Filters(text="no such words"), []),
    ):
        places, counts = select(data, {}, filters)
        assert places == expected
        # The counts are those of the other filters, so that each choice says what it would show.
        chosen = dict(status_choices(counts))
        assert chosen[filters.status] == len(expected)
        assert set(chosen) == dict(choices).keys()


def test_edits_that_wait_are_laid_over_and_counted(tmp_path: Path) -> None:
    data = read_source(f"run:{make_run(tmp_path).id}")
    assert waiting(data) == {}
    for made in (edit(WRONG, "replace", "Within 14 days."), edit(("train", "f1", 0), "drop")):
        append_edit(edits_file(data), made)
    edits = waiting(data)
    assert set(edits) == {WRONG, ("train", "f1", 0)}
    _, counts = select(data, edits, Filters())
    assert counts["edited by hand"] == counts["dropped by hand"] == 1
    assert dict(status_choices(counts))["dropped"] == 2
    assert select(data, edits, Filters(status="edit waits"))[0] == [
        1,
        data.rows.index(next(r for r in data.rows if r.conversation == "f1")),
    ]
    assert record(data, data.rows[1], edits[WRONG])["learnt"] == "Within 14 days."

    append_edit(edits_file(data), taken_back(data, data.rows[1], edits[WRONG]))
    assert set(waiting(data)) == {("train", "f1", 0)}
    write_jsonl(edits_file(data), [{"conversation": "nobody", "turn": 0, "action": "drop"}])
    with pytest.raises(DataError, match="'nobody': there is no such conversation"):
        waiting(data)


def test_edits_that_the_run_was_made_with_can_be_changed_and_taken_back(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    made = edit(("train", "returns-1", 0), "replace", "By hand.")
    write_jsonl(run.path(*APPLIED), [made])
    data = read_source(f"run:{run.id}")
    row = data.rows[0]
    assert row.status == "edited by hand"
    assert record(data, row, None)["learnt"] == "By hand."
    append_edit(edits_file(data), taken_back(data, row, None))
    edits = waiting(data)
    assert edits[row.key].action == "undo"
    assert record(data, row, edits[row.key])["status"] == "to be checked again"
    append_edit(edits_file(data), taken_back(data, row, edits[row.key]))
    assert waiting(data) == {}  # as the run was made


def test_every_drop_reason_has_plain_words() -> None:
    others = {"exact duplicate", "near duplicate", "intent over its cap", "in the test set", "dropped by hand"}
    assert set(FILTERS) | others <= set(MEANING)


def test_nothing_of_the_data_becomes_html(tmp_path: Path) -> None:
    data = read_source(f"run:{make_run(tmp_path).id}")
    place = next(k for k, row in enumerate(data.rows) if row.conversation == "hostile-1")
    for edits in ({}, {data.rows[place].key: edit(data.rows[place].key, "replace", f"Edited {HOSTILE}")}):
        html = turn_html(data, place, edits)
        assert "<img" not in html
        assert html.count("&lt;img") >= 3
    assert "What the teacher said" in html


def test_a_turn_says_what_is_missing_and_what_differs(tmp_path: Path) -> None:
    data = read_source(f"run:{make_run(tmp_path).id}")
    html = turn_html(data, 1, {})
    assert "Dropped: The reply says something that is wrong." in html
    assert "✗ missing</b> 14 days" in html
    assert "It says <b>30</b> where <b>14</b> is right." in html
    assert "Within <mark>30</mark> days <mark>of your return.</mark>" in html
    assert "Within <mark>14</mark> days." in html
    assert "<li>Policy line 1.</li>" in html
    assert "How long can I return it?" in html
    mended = turn_html(data, 1, {WRONG: edit(WRONG, "replace", "Within 14 days.")})
    assert "✓ said</b> 14 days" in mended
    assert "<mark>" not in mended


def test_downloads_hold_what_is_shown(tmp_path: Path) -> None:
    data = read_source(f"run:{make_run(tmp_path).id}")
    records = [record(data, row, None) for row in data.rows]
    assert [json.loads(json.dumps(r))["conversation"] for r in records] == [row.conversation for row in data.rows]
    assert records[1]["learnt"] is None
    rows = list(csv.DictReader(io.StringIO(to_csv(records))))
    assert len(rows) == TURNS
    assert rows[0]["reply"] == "You have 30 days, of course."
    assert json.loads(rows[0]["facts"]) == [["30 days", "thirty days"]]
    assert rows[0]["policy"].startswith("'- Policy")  # no spreadsheet takes it for a formula
    assert to_csv([]) == ""


def test_charts_of_runs_and_of_references(tmp_path: Path) -> None:
    data = read_source(f"run:{make_run(tmp_path).id}")
    assert [trace.name for trace in length_chart(data).data] == ["Questions", "Teacher's replies", "References"]
    assert all(abs(sum(trace.y) - 100) < 1e-6 for trace in length_chart(data).data)
    intents = intent_chart(data)
    assert [trace.name for trace in intents.data] == ["kept", "dropped"]
    assert sum(sum(trace.x) for trace in intents.data) == TURNS
    reasons = reason_chart(data)
    assert reasons is not None
    assert dict(zip(reasons.data[0].y, reasons.data[0].x, strict=True)) == {
        "contradicted fact": 1,
        "placeholder text": 1,
    }
    assert reason_chart(read_source("data:helpdesk/test")) is None
    for figure in (length_chart(data), intents, reasons):
        assert figure.layout.paper_bgcolor == "rgba(0,0,0,0)"
