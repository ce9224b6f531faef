"""Hand edits: each changes its own turn and no other, and the run that learns from them can be made again."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from distiller.curate import Curated, curate
from distiller.edits import APPLIED, Edit, Place, again, append_edit, by_turn, read_edits
from distiller.errors import DataError, JobError, RunError
from distiller.job import Curation, DistillationJob, load_job, parse_job
from distiller.pipeline import run_job
from distiller.runs import file_hash, open_run_of
from distiller.schema import Conversation, read_conversations, read_jsonl, write_jsonl
from tests.fakes import FakeOpenAI
from tests.tiny import talk, talks

RULES = Curation(near_duplicate_similarity=1, max_intent_share=0.5)


def edit(conversation: str, turn: int, action: Any, reply: str | None = None, **more: Any) -> Edit:
    return Edit(conversation=conversation, turn=turn, action=action, reply=reply, time="2026-01-01T00:00:00Z", **more)


# The file


def test_what_is_appended_is_read_and_the_file_only_grows(tmp_path: Path) -> None:
    path = tmp_path / "edits.jsonl"
    said = [edit("c0", 0, "drop", split="train"), edit("c0", 1, "replace", "Grüße.\nBis bald."), edit("c0", 0, "undo")]
    before = b""
    for one in said:
        append_edit(path, one)
        after = path.read_bytes()
        assert after.startswith(before)
        before = after
    assert read_edits(path) == said
    path.write_bytes(before + b'{"conversation": "c0", "tu')  # killed while it wrote
    assert read_edits(path) == said
    append_edit(path, said[0])
    assert read_edits(path) == [*said, said[0]]


def test_a_last_line_without_its_end_counts_where_it_is_whole(tmp_path: Path) -> None:
    (tmp_path / "edits.jsonl").write_text('{"conversation": "c0", "turn": 0, "action": "drop"}')
    [one] = read_edits(tmp_path / "edits.jsonl")
    assert (one.conversation, one.turn, one.action, one.split) == ("c0", 0, "drop", None)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"conversation": "c0", "turn": 0, "action": "replace"}', "replace needs a reply"),
        ('{"conversation": "c0", "turn": 0, "action": "replace", "reply": "  "}', "replace needs a reply"),
        ('{"conversation": "c0", "turn": 0, "action": "drop", "reply": "x"}', "drop takes no reply"),
        ('{"conversation": "c0", "turn": -1, "action": "drop"}', "turn: .*greater than or equal to 0"),
        ('{"conversation": "c0", "turn": 0, "action": "delete"}', "action: .*'replace', 'drop'"),
        ('{"conversation": "c0", "turn": 0, "action": "drop", "split": "test"}', "split: .*'train' or 'validation'"),
        ('{"conversation": "c0", "turn": 0, "action": "drop", "reason": "x"}', "reason: "),
        ("not json", "not JSON"),
        ("[]", "dictionary"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "edits.jsonl"
    path.write_text('{"conversation": "c0", "turn": 0, "action": "drop"}\n' + line + "\n")
    with pytest.raises(DataError, match=rf"edits\.jsonl:2: .*{words}"):
        read_edits(path)


def test_a_file_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_edits(tmp_path / "absent.jsonl")
    with pytest.raises(DataError, match="cannot be saved"):
        append_edit(tmp_path / "absent" / "edits.jsonl", edit("c0", 0, "drop"))


# Which edit counts

TURNS = {"train": {"a": 2, "both": 1}, "validation": {"v": 1, "both": 1}, "test": {"t": 1}}


def test_the_last_edit_of_a_turn_counts() -> None:
    said = [
        edit("a", 1, "drop"),
        edit("a", 0, "keep"),
        edit("a", 1, "replace", "Better."),
        edit("v", 0, "drop"),
        edit("v", 0, "undo"),
        edit("both", 0, "drop", split="validation"),
    ]
    counted = by_turn(said, TURNS)
    assert {place: e.action for place, e in counted["train"].items()} == {("a", 0): "keep", ("a", 1): "replace"}
    assert {place: e.action for place, e in counted["validation"].items()} == {("both", 0): "drop"}
    assert all(e.split == split for split, edits in counted.items() for e in edits.values())


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (edit("x", 0, "drop"), "'x': there is no such conversation among those taken of the train and validation"),
        (edit("v", 0, "drop", split="train"), "'v': there is no such conversation among those taken of the train data"),
        (edit("a", 2, "drop"), "turn 2 of conversation 'a': there is no such turn; .* the last one is 1"),
        (edit("t", 0, "drop"), "'t': it is in the test data, which is never edited"),
        (edit("both", 0, "drop"), 'both have it. Add "split": "train"'),
    ],
)
def test_an_edit_that_fits_no_turn_is_an_error(wrong: Edit, words: str) -> None:
    with pytest.raises(DataError, match=words):
        by_turn([wrong], TURNS)


# What it does to the curated data


def answered(conversations: list[Conversation]) -> list[Conversation]:
    return [
        talk(c.id, *(text for t in c.turns() for text in (t.query, f"{t.reference} Anything else?")), **c.metadata)
        for c in conversations
    ]


def statuses(result: Curated, said: list[Conversation]) -> dict[Place, tuple[bool, str | None, str]]:
    """By place: whether it is learnt, why not, and the text that stands there."""
    reasons = {(row["conversation"], row["turn"]): row["reason"] for row in result.dropped}
    kept = {c.id: c for c in result.conversations}
    found = {}
    for c in said:
        for turn in c.turns():
            learnt = c.id in kept and kept[c.id].metadata["keep"][turn.index]
            text = kept[c.id].turns()[turn.index].reference if c.id in kept else turn.reference
            found[c.id, turn.index] = (learnt, reasons.get((c.id, turn.index)), text or "")
    return found


@pytest.mark.parametrize("seed", range(30))
def test_an_edit_changes_its_own_turn_and_no_other(seed: int) -> None:
    rng = random.Random(seed)
    data = [c.model_copy(update={"metadata": {"intent": "abc"[k % 3]}}) for k, c in enumerate(talks(9, turns=3))]
    said = answered(data)
    for c in said[:4]:
        c.messages[1].content = rng.choice(["", "As an AI, I cannot assist with that.", said[5].messages[1].content])
    test = [talk("t", data[8].turns()[0].query)]
    rules = RULES.model_copy(update={"use_reference_for_dropped": rng.random() < 0.5})
    places = [(c.id, t) for c in data for t in range(3)]
    edits: dict[Place, Edit] = {}
    for place in rng.sample(places, rng.randint(0, 8)):
        action = rng.choice(["replace", "drop", "keep"])
        edits[place] = edit(*place, action, f" By hand: {place}. " if action == "replace" else None)

    plain, edited = (curate(said, data, test, rules, edits=given) for given in (None, edits))
    before, after = statuses(plain, said), statuses(edited, said)
    raw = {(c.id, turn.index): turn.reference or "" for c in said for turn in c.turns()}
    for place in places:
        if place[0] == "c8":  # the test set's, whatever an edit says
            assert after[place][:2] == (False, "in the test set")
        elif place not in edits:
            assert after[place][:2] == before[place][:2]
        else:
            wanted = {
                "replace": (True, None, f"By hand: {place}."),
                "keep": (True, None, raw[place]),
                "drop": (False, "dropped by hand", raw[place]),
            }
            assert after[place] == wanted[edits[place].action]
    counted = {place: e.action for place, e in edits.items() if place[0] != "c8"}
    for action, words in {"replace": "edited by hand", "keep": "kept by hand", "drop": "dropped by hand"}.items():
        assert edited.summary.get(words, 0) == sum(value == action for value in counted.values())
    assert sum(edited.summary.values()) - edited.summary.get("replaced by reference", 0) == len(places)


def test_later_turns_have_the_edited_reply_in_their_history() -> None:
    data = talks(1, turns=2)
    edits = {("c0", 0): edit("c0", 0, "replace", "By hand.")}
    [conversation] = curate(answered(data), data, [], RULES, edits=edits).conversations
    assert [m.content for m in conversation.messages][1] == "By hand."
    assert conversation.metadata["keep"] == [True, True]


# From a run to the next


def make_job(folder: Path, teacher: str, **curation: Any) -> DistillationJob:
    write_jsonl(folder / "train.jsonl", talks(4, turns=2))
    write_jsonl(folder / "validation.jsonl", talks(2, prefix="v"))
    write_jsonl(folder / "test.jsonl", talks(2, prefix="t"))
    files = {f"{name}_data": str(folder / f"{name}.jsonl") for name in ("validation", "test")}
    value = {
        "name": "desk",
        "teacher_model": teacher,
        "student_model": "hf:nobody/none",
        "training_data": str(folder / "train.jsonl"),
        "hyperparameters": {"loss": "sequence"},
        "curation": {"near_duplicate_similarity": 1, "max_intent_share": 1, **curation},
    }
    return parse_job(value | files)


def test_a_job_follows_the_content_of_its_edits_and_says_when_they_are_missing(tmp_path: Path) -> None:
    path = tmp_path / "edits.jsonl"
    path.write_text('{"conversation": "c0", "turn": 0, "action": "drop"}\n')
    before = make_job(tmp_path, "recorded:none.jsonl", edits=str(path)).hash()
    path.write_text('{"conversation": "c0", "turn": 0, "action": "keep"}\n')
    assert make_job(tmp_path, "recorded:none.jsonl", edits=str(path)).hash() != before
    path.unlink()
    with pytest.raises(JobError, match=r"curation\.edits: there is no file .*edits\.jsonl"):
        make_job(tmp_path, "recorded:none.jsonl", edits=str(path))


def test_a_run_is_trained_again_with_edits_and_no_reply_is_paid_twice(
    tmp_path: Path, openai_server: FakeOpenAI
) -> None:
    first = run_job(make_job(tmp_path, openai_server.name), quiet=True, until="curate")
    paid = len(openai_server.requests)
    assert paid == 10
    edits = [edit("c1", 1, "drop"), edit("c0", 0, "replace", "By hand."), edit("v0", 0, "drop"), edit("v0", 0, "undo")]
    job = again(first, edits)
    assert job.curation.edits is not None
    assert job.curation.edits.parent == first.folder
    assert [e.conversation for e in read_edits(job.curation.edits)] == ["c0", "c1"]
    assert again(first, edits) == job

    second = run_job(job, quiet=True, until="curate")
    assert second.id != first.id
    assert load_job(second.path("job.yaml")).hash() == job.hash()
    assert len(openai_server.requests) == paid
    assert second.state["prepare"]["edits"] == 2
    assert second.state["prepare"]["sha256"]["edits"] == file_hash(job.curation.edits)
    assert second.state["curate"]["train"] == {"kept": 6, "edited by hand": 1, "dropped by hand": 1}
    [row] = read_jsonl(second.path("dropped.jsonl"))
    assert (row["conversation"], row["turn"], row["reason"]) == ("c1", 1, "dropped by hand")
    assert read_conversations(second.path("curated.train.jsonl"))[0].turns()[0].reference == "By hand."
    assert read_conversations(second.path("synthetic.train.jsonl")) == read_conversations(
        first.path("synthetic.train.jsonl")
    )

    # A third one builds on the second's edits; taking them all back gives the first job again.
    third = again(second, [edit("c1", 1, "undo"), edit("c2", 0, "drop")])
    assert third.curation.edits is not None
    assert [e.conversation for e in read_edits(third.curation.edits)] == ["c0", "c2"]
    assert again(second, [edit("c1", 1, "undo"), edit("c0", 0, "undo")]) == first.job


def test_edits_that_fit_nothing_stop_the_run_before_the_teacher_is_asked(
    tmp_path: Path, openai_server: FakeOpenAI
) -> None:
    path = tmp_path / "edits.jsonl"
    write_jsonl(path, [{"conversation": "t0", "turn": 0, "action": "drop"}])
    with pytest.raises(DataError, match="test data, which is never edited"):
        run_job(make_job(tmp_path, openai_server.name, edits=str(path)), quiet=True, until="curate")
    assert openai_server.requests == []


def test_a_run_without_the_teacher_s_replies_is_not_trained_again(tmp_path: Path) -> None:
    run = open_run_of(make_job(tmp_path, "recorded:none.jsonl"))
    with pytest.raises(RunError, match="has not got all of the teacher's replies yet"):
        again(run, [edit("c0", 0, "drop")])


def test_a_run_keeps_the_edits_that_it_was_made_with(tmp_path: Path, openai_server: FakeOpenAI) -> None:
    path = tmp_path / "edits.jsonl"
    write_jsonl(path, [{"conversation": "c0", "turn": 0, "action": "drop"}])
    run = run_job(make_job(tmp_path, openai_server.name, edits=str(path)), quiet=True, until="prepare")
    assert read_edits(run.path(*APPLIED)) == read_edits(path)
