"""Automatic battles, end to end against a server that speaks the OpenAI protocol: what is asked, kept, counted, said."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from distiller.embedding import load_retrieval_encoder
from distiller.errors import DataError, RequestError, RunError
from distiller.job import TeacherPrice, parse_job
from distiller.judge import Judgement
from distiller.retrieval import PolicyIndex
from distiller.runs import file_hash
from distiller.schema import Completion, write_jsonl, write_text
from evals import judged
from evals.battles import Only, Reply, Side
from evals.judging import Judge, judge_predictions, judge_report, judge_votes
from evals.leaderboard import newest_board
from evals.report import write_report
from evals.votes import VoteStore
from tests.conftest import PROJECT
from tests.fakes import FakeOpenAI, Fault
from tests.tiny import talk
from tests.ui.reports import RIGHT, WRONG, make_report

STUDENT, BASELINE, TEACHER = (f"run:desk-1/{role}" for role in ("student", "baseline", "teacher"))
SAID = (Completion(text="Verdict: A"),) * 2


def shown(messages: list[dict[str, str]]) -> tuple[str, str]:
    """The answers as the judge sees them."""
    _, _, rest = messages[-1]["content"].partition("Answer A:\n")
    a, _, b = rest.partition("\n\nAnswer B:\n")
    return a, b.rpartition("\n\n")[0]


def likes(text: str) -> Callable[[list[dict[str, str]]], str]:
    def reply(messages: list[dict[str, str]]) -> str:
        a, b = (text in answer for answer in shown(messages))
        return "They are alike. Verdict: tie" if a and b else f"One fits.\nVerdict: {'A' if a else 'B' if b else 'tie'}"

    return reply


@pytest.fixture
def judge_model(openai_server: FakeOpenAI) -> FakeOpenAI:
    openai_server.reply = likes(RIGHT)
    return openai_server


@pytest.fixture
def votes(tmp_path: Path) -> Iterator[VoteStore]:
    store = VoteStore(f"sqlite:///{tmp_path / 'votes.sqlite'}")
    yield store
    store.close()


@pytest.fixture
def folder(runs_folder: Path) -> Path:
    """A report with the data that it is on: 3 conversations of 2 turns."""
    folder = runs_folder / "desk-1"
    report = make_report()
    by_id: dict[str, list[str]] = {}
    for turn in report["conversations"]:
        by_id.setdefault(turn["conversation"], []).extend([turn["query"], turn["reference"]])
    facts = [[["30 days"]], []]
    write_jsonl(folder / "data" / "test.jsonl", [talk(name, *texts, facts=facts) for name, texts in by_id.items()])
    report["data"]["sha256"] = file_hash(folder / "data" / "test.jsonl")
    write_report(report, folder)
    return folder


def by(server: FakeOpenAI, **more: Any) -> Judge:
    return Judge(server.name, **more)


def test_the_default_pairs_are_judged_in_both_orders(folder: Path, judge_model: FakeOpenAI, votes: VoteStore) -> None:
    section = judge_report(
        folder, by(judge_model, price=TeacherPrice(input_per_million=2, output_per_million=8)), votes
    )
    against_baseline, against_teacher = section["rows"]
    assert (against_baseline["a"], against_baseline["b"]) == (STUDENT, BASELINE)
    assert (against_teacher["a"], against_teacher["b"]) == (STUDENT, TEACHER)
    # student against baseline: right and wrong in c-1.1, wrong and right in c-1.2; the same words in the others
    assert [against_baseline[key] for key in ("battles", "n", "wins", "ties", "losses")] == [6, 6, 1, 4, 1]
    assert (against_baseline["identical"], against_baseline["asked"], against_baseline["calls"]) == (4, 2, 4)
    assert against_baseline["win_rate"] == 0.5
    assert (against_teacher["wins"], against_teacher["losses"], against_teacher["identical"]) == (0, 2, 4)
    assert (against_baseline["disagreements"], against_baseline["unreadable"]) == (0, 0)
    assert len(judge_model.requests) == 6  # of c-1.2 teacher and baseline say the same: it is asked once
    assert Counter(against_baseline[key] for key in ("chose_first", "chose_second", "said_tie")) == {2: 2, 0: 1}
    tokens = against_baseline["prompt_tokens"], against_baseline["completion_tokens"]
    assert against_baseline["usd"] == pytest.approx((tokens[0] * 2 + tokens[1] * 8) / 1e6)
    asked = judge_model.requests[0]["messages"][-1]["content"]
    assert "> Customer: How do I return a kettle? (c-1.1)" in asked
    assert "Facts that a correct answer states:\n> - 30 days" in asked
    assert "Reference answer:\n> Send it back within 30 days" in asked


def test_later_turns_follow_the_references(folder: Path, judge_model: FakeOpenAI, votes: VoteStore) -> None:
    judge_report(folder, by(judge_model), votes, pair=("student", "baseline"))
    second = [r["messages"][-1]["content"] for r in judge_model.requests if "(c-1.2)" in r["messages"][-1]["content"]]
    assert len(second) == 2
    for asked in second:
        assert (
            "> Customer: How do I return a kettle? (c-1.1)\n> Support: Send it back within 30 days; the label is in "
            "your account.\n> Customer: How do I return a kettle? (c-1.2)"
        ) in asked
    one, other = (shown([{"content": asked}]) for asked in second)
    assert one == other[::-1]


def test_the_judge_sees_the_policy_of_the_job(
    folder: Path, judge_model: FakeOpenAI, votes: VoteStore, tmp_path: Path
) -> None:
    write_text(
        tmp_path / "policies.md", "## Returns\n\n- A kettle can be sent back within 30 days.\n\n## Post\n\n- Free.\n"
    )
    value: dict[str, Any] = {"name": "desk", "teacher_model": "hf:nobody/large", "student_model": "hf:nobody/none"}
    value |= {"training_data": "none.jsonl", "validation_data": "none.jsonl", "hyperparameters": {"loss": "sequence"}}
    value["retrieval"] = {"policies": str(tmp_path / "policies.md"), "lines": 1}
    judge_report(folder, by(judge_model), votes, pair=("student", "baseline"), job=parse_job(value, check_files=False))
    for request in judge_model.requests:
        assert "Policy:\n> - A kettle can be sent back within 30 days.\n\nRef" in request["messages"][-1]["content"]


def test_the_judge_s_battles_are_kept_apart_from_people_s(
    folder: Path, judge_model: FakeOpenAI, votes: VoteStore
) -> None:
    judge_report(folder, by(judge_model), votes, pair=("student", "baseline"))
    table = votes.votes_table(Only(source="judge"))
    assert len(table) == 6
    assert set(table["counted"]) == {False}
    assert set(table["why_not"]) == {"judge"}
    assert set(table["visitor"]) == {f"judge:{judge_model.name}"}
    assert set(table["data_set"]) == {"test.jsonl"}
    assert votes.votes_count(Only(counted=True)) == 0
    won = table[table["choice"] != "tie"].sort_values("len_a")
    # The two stand in the order of their names, whichever was named first.
    assert list(zip(won["model_a"], won["choice"], won["len_a"], strict=True)) == [
        (BASELINE, "b", len(WRONG)),
        (BASELINE, "a", len(RIGHT)),
    ]
    battle = votes.battle(won.iloc[0]["battle"])
    assert battle.turns[0].query == "How do I return a kettle? (c-1.1)"


def test_nothing_is_asked_or_stored_twice(folder: Path, judge_model: FakeOpenAI, votes: VoteStore) -> None:
    first = judge_report(folder, by(judge_model), votes, pair=("student", "baseline"))
    again = judge_report(folder, by(judge_model), votes, pair=("baseline", "student"))
    assert len(judge_model.requests) == 4
    assert votes.votes_count() == 6
    (row,), (turned,) = first["rows"], again["rows"]
    assert (row["stored"], turned["stored"]) == (0, 4)
    assert (turned["a"], turned["wins"], turned["losses"]) == (BASELINE, row["losses"], row["wins"])


def test_one_who_always_says_a_is_found_out(folder: Path, judge_model: FakeOpenAI, votes: VoteStore) -> None:
    judge_model.reply = lambda messages: "Verdict: A"
    (row,) = judge_report(folder, by(judge_model), votes, pair=("student", "baseline"))["rows"]
    assert (row["wins"], row["losses"], row["ties"]) == (0, 0, 6)
    assert (row["disagreement"], row["disagreements"], row["readable"]) == (1.0, 2, 2)
    assert (row["chose_first"], row["chose_second"]) == (4, 0)
    assert row["p_adjusted"] == 1.0
    words = judged.pair_words(row, {})
    assert "no preference can be claimed" in words
    assert "what stood first 100% of the time" in words
    assert "says little" in words


def test_what_cannot_be_read_is_counted_and_never_guessed(
    folder: Path, judge_model: FakeOpenAI, votes: VoteStore
) -> None:
    fine = likes(RIGHT)
    judge_model.reply = lambda messages: (
        "Well, A I suppose." if "(c-1.2)" in messages[-1]["content"] else fine(messages)
    )
    (row,) = judge_report(folder, by(judge_model), votes, pair=("student", "baseline"))["rows"]
    assert (row["battles"], row["n"], row["wins"], row["losses"]) == (6, 5, 1, 0)
    assert (row["unreadable"], row["unreadable_texts"], row["asked"]) == (1, 2, 2)
    assert votes.votes_count() == 5
    stored = judged.read(folder)["rows"][0]["verdicts"][1]
    assert (stored["verdict"], stored["said"]) == (None, ["Well, A I suppose."] * 2)
    assert "1 of 2 battles have no readable verdict" in judged.pair_words(row, {})


def test_no_readable_verdict_says_nothing(tmp_path: Path, judge_model: FakeOpenAI, votes: VoteStore) -> None:
    judge_model.reply = lambda messages: "Dear customer!"
    data, files = predictions(tmp_path, ["Yes."], ["No."])
    (row,) = judge_predictions(files, data, tmp_path / "out", by(judge_model), votes)["rows"]
    assert (row["n"], row["win_rate"], row["p"], row["disagreement"]) == (0, None, None, None)
    assert "nothing can be said" in judged.pair_words(row, {})
    assert judged.table({"rows": [row]}, {})[0][1] == "–"


def predictions(folder: Path, a: list[str], b: list[str], *texts: str) -> tuple[Path, tuple[Path, Path]]:
    """One conversation without references, and two models' own talks with it."""
    asked = texts or tuple(f"Question {k}?" for k in range(len(a)))
    messages = [{"role": "user", "content": text} for text in asked]
    write_jsonl(folder / "data.jsonl", [{"id": "t", "messages": messages}])
    for name, replies in (("one", a), ("two", b)):
        rows = [{"conversation": "t", "turn": t, "completion": {"text": text}} for t, text in enumerate(replies)]
        write_jsonl(folder / f"{name}.jsonl", rows)
    return folder / "data.jsonl", (folder / "one.jsonl", folder / "two.jsonl")


def test_without_references_each_side_is_shown_with_its_own_words(
    tmp_path: Path, judge_model: FakeOpenAI, votes: VoteStore
) -> None:
    data, files = predictions(tmp_path, ["Yes.", "Fine."], ["No.", "Sorry."])
    (row,) = judge_predictions(files, data, tmp_path / "out", by(judge_model), votes)["rows"]
    assert (row["a"], row["b"], row["battles"]) == ("one", "two", 2)
    asked = [shown(request["messages"]) for request in judge_model.requests]
    assert (
        "> Support: Yes.\n> Customer: Question 1?\n> Support: Fine.",
        "> Support: No.\n> Customer: Question 1?\n> Support: Sorry.",
    ) in asked
    assert json.loads((tmp_path / "out" / "judge.json").read_text())["rows"][0]["a"] == "one"


def test_free_running_replies_are_shown_with_their_own_history(
    tmp_path: Path, judge_model: FakeOpenAI, votes: VoteStore
) -> None:
    """There are references, and the talks did not follow them."""
    data, files = predictions(tmp_path, ["Yes.", "Fine."], ["No.", "Sorry."])
    write_jsonl(data, [talk("t", "Question 0?", "The reference.", "Question 1?", "Another.")])
    free = tuple(file.rename(file.with_suffix(".free.jsonl")) for file in files)
    judge_predictions((free[0], free[1]), data, tmp_path / "out", by(judge_model), votes)
    asked = [request["messages"][-1]["content"] for request in judge_model.requests]
    assert any("> Support: Yes.\n> Customer: Question 1?\n> Support: Fine." in text for text in asked)
    assert not any("> Support: The reference." in text for text in asked)
    shutil.copyfile(free[1], tmp_path / "two.jsonl")
    with pytest.raises(DataError, match="Give two files of one kind"):
        judge_predictions((free[0], tmp_path / "two.jsonl"), data, tmp_path / "out", by(judge_model), votes)


def test_the_conversation_s_own_system_message_is_shown(
    tmp_path: Path, judge_model: FakeOpenAI, votes: VoteStore
) -> None:
    data, files = predictions(tmp_path, ["Yes."], ["No."])
    told = {"role": "system", "content": "The customer is in Norway."}
    write_jsonl(data, [{"id": "t", "messages": [told, {"role": "user", "content": "Do you ship?"}]}])
    judge_predictions(files, data, tmp_path / "out", by(judge_model), votes)
    asked = judge_model.requests[0]["messages"][-1]["content"]
    assert "> System: The customer is in Norway.\n> Customer: Do you ship?" in asked


def test_a_refused_request_gives_no_verdict_and_ends_nothing(
    tmp_path: Path, judge_model: FakeOpenAI, votes: VoteStore
) -> None:
    judge_model.faults.append(Fault(status=400))
    data, files = predictions(tmp_path, ["Yes.", f"Fine, {RIGHT}"], ["No.", "Sorry."])
    (row,) = judge_predictions(files, data, tmp_path / "out", by(judge_model), votes)["rows"]
    assert (row["battles"], row["n"], row["unreadable"]) == (2, 1, 1)
    # Asked again it is answered: a refusal is not kept.
    (row,) = judge_predictions(files, data, tmp_path / "out", by(judge_model), votes)["rows"]
    assert (row["n"], row["stored"]) == (2, 3)


def test_when_all_are_refused_it_is_said(tmp_path: Path, judge_model: FakeOpenAI, votes: VoteStore) -> None:
    judge_model.faults.extend([Fault(status=400)] * 2)
    data, files = predictions(tmp_path, ["Yes."], ["No."])
    with pytest.raises(RequestError, match="the server answered 400"):
        judge_predictions(files, data, tmp_path / "out", by(judge_model), votes)


def test_what_cannot_be_read_is_said(tmp_path: Path, judge_model: FakeOpenAI, votes: VoteStore) -> None:
    data, files = predictions(tmp_path, ["Yes."], ["No."])
    with pytest.raises(DataError, match="cannot be read"):
        judge_predictions((tmp_path, files[1]), data, tmp_path / "out", by(judge_model), votes)
    write_text(tmp_path / "out" / "judge.json", '{"rows": [')
    with pytest.raises(RunError, match=r"judge\.json is damaged"):
        judge_predictions(files, data, tmp_path / "out", by(judge_model), votes)
    with pytest.raises(DataError, match="the policies cannot be read"):
        PolicyIndex(tmp_path / "moved.md", load_retrieval_encoder())


def test_predictions_that_share_no_turn_are_refused(tmp_path: Path, judge_model: FakeOpenAI, votes: VoteStore) -> None:
    data, files = predictions(tmp_path, ["Yes."], [])
    with pytest.raises(DataError, match="holds no predictions"):
        judge_predictions(files, data, tmp_path / "out", by(judge_model), votes)
    write_jsonl(files[1], [{"conversation": "u", "turn": 0, "completion": {"text": "?"}}])
    with pytest.raises(DataError, match=r"no turn of data\.jsonl in common"):
        judge_predictions(files, data, tmp_path / "out", by(judge_model), votes)


def test_other_pairs_and_judges_stay_in_the_file(folder: Path, judge_model: FakeOpenAI, votes: VoteStore) -> None:
    judge_report(folder, by(judge_model), votes, pair=("student", "baseline"))
    section = judge_report(folder, by(judge_model), votes, pair=("student", "teacher"))
    assert [row["b"] for row in section["rows"]] == [BASELINE, TEACHER]
    for row in section["rows"]:  # two tests of one judge: Holm
        assert row["p_adjusted"] >= row["p"]
    limited = judge_report(folder, by(judge_model), votes, pair=("student", "teacher"), limit=1)
    assert [row["battles"] for row in limited["rows"]] == [6, 6]  # what is known of more battles stays


def test_the_report_has_a_section_of_its_own(folder: Path, judge_model: FakeOpenAI, votes: VoteStore) -> None:
    assert judged.TITLE not in (folder / "report.md").read_text()
    judge_report(folder, by(judge_model), votes)
    markdown, page = (folder / "report.md").read_text(), (folder / "report.html").read_text()
    for text in (markdown, page):
        assert judged.TITLE in text
        assert "fake-1 as judge: student against baseline won 1, tied 4 and lost 1 of 6 turns" in text
    assert "| student against teacher (fake-1) | 33.3% (" in markdown
    board = newest_board()
    assert board is not None
    assert len(board.judge_words) == 2
    assert all(row["votes"] is None for row in board.rows())


def test_a_section_on_replies_that_are_gone_is_not_shown(
    folder: Path, judge_model: FakeOpenAI, votes: VoteStore
) -> None:
    judge_report(folder, by(judge_model), votes)
    report = json.loads((folder / "report.json").read_text())
    report["conversations"][0]["replies"][STUDENT]["text"] = "Something else."
    write_report(report, folder)
    assert judged.TITLE not in (folder / "report.md").read_text()
    assert len(judged.read(folder)["rows"]) == 2  # and nothing is lost


def test_words_for_what_was_named_wrongly(folder: Path, judge_model: FakeOpenAI, votes: VoteStore) -> None:
    with pytest.raises(DataError, match="'giant' is not in the report; there are: teacher, student, baseline"):
        judge_report(folder, by(judge_model), votes, pair=("student", "giant"))
    with pytest.raises(DataError, match="nothing to compare"):
        judge_report(folder, by(judge_model), votes, pair=("student", STUDENT))
    with pytest.raises(RunError, match=r"has no report\.json"):
        judge_report(folder / "data", by(judge_model), votes)
    write_text(folder / "data" / "test.jsonl", "{}\n")
    with pytest.raises(DataError, match="are no longer in"):
        judge_report(folder, by(judge_model), votes)
    assert judge_model.requests == []


# Agreement with people.


def voted(votes: VoteStore, choice: Any, a: str, b: str, *, visitor: str = "v", turns: int = 1, **more: Any) -> None:
    opened = votes.open_battle(Side(STUDENT), Side(TEACHER), visitor=visitor, **more)
    for turn in range(turns):
        votes.add_turn(opened.battle_id, f"Can I return it, {turn}, {visitor}?", Reply(a), Reply(b))
    votes.vote(opened.battle_id, opened.token, visitor, choice, turns)


def test_agreement_with_people_s_votes(judge_model: FakeOpenAI, votes: VoteStore, runs_folder: Path) -> None:
    for k in range(3):
        voted(votes, "a", RIGHT, WRONG, visitor=f"v{k}")
    voted(votes, "b", WRONG, RIGHT, visitor="v0", turns=3)
    voted(votes, "b", RIGHT, WRONG, visitor="v1", turns=2)  # the judge sees it the other way
    voted(votes, "both_bad", WRONG, WRONG, visitor="v2")
    voted(votes, "a", RIGHT, WRONG, mode="named")  # not blind: not compared with
    row = judge_votes(by(judge_model), votes)
    assert (row["votes"], row["n"], row["agreed"], row["visitors"]) == (6, 6, 5, 3)
    assert row["confusion"] == [[3, 0, 0], [1, 1, 0], [0, 0, 1]]
    chance = (3 * 4 + 2 * 1 + 1 * 1) / 36
    assert row["kappa"] == pytest.approx((5 / 6 - chance) / (1 - chance))
    low, high = row["kappa_ci"]
    assert low <= row["kappa"] <= high
    words = judged.agreement_words(row)
    assert "chose the same in 5 of 6 battles" in words
    assert "few votes" in words
    # A vote on three turns is one comparison of whole talks.
    whole = [r for r in judge_model.requests if "Can I return it, 2, v0?" in r["messages"][-1]["content"]]
    assert len(whole) == 2
    assert len(judge_model.requests) == 2 * 5
    assert judge_votes(by(judge_model), votes)["calls"] == row["calls"]
    assert len(judge_model.requests) == 2 * 5
    table = votes.votes_table(Only(source="judge"))
    assert sorted(table["turns"]) == [1, 1, 1, 1, 2, 3]
    assert set(table["data_set"]) == {"arena"}
    assert votes.votes_count(Only(counted=True)) == 6
    assert judged.read(runs_folder / "judge")["agreement"][0]["kappa"] == row["kappa"]


def test_no_votes_no_agreement(judge_model: FakeOpenAI, votes: VoteStore) -> None:
    with pytest.raises(DataError, match="No votes of people"):
        judge_votes(by(judge_model), votes)


def test_many_votes_that_agree_by_chance_alone_claim_nothing() -> None:
    people = ["a", "b"] * 30
    verdicts: list[Any] = ["a", "a", "b", "b"] * 15
    judgements = [Judgement(verdict, verdict, SAID) for verdict in verdicts]
    row = judged.agreement(people, judgements, [f"v{k % 12}" for k in range(60)]) | {"judge": "hf:x/judge"}
    assert row["kappa"] == pytest.approx(0)
    assert "no more agreement than by chance" in judged.agreement_words(row)
    assert "few votes" not in judged.agreement_words(row)


def test_votes_of_few_visitors_widen_the_interval() -> None:
    people = ["a"] * 10 + ["b"] * 10 + ["a"] * 10 + ["b"] * 10
    agreeing: list[Any] = people[:20] + ["b"] * 10 + ["a"] * 10  # the second visitor sees all the other way
    judgements = [Judgement(verdict, verdict, SAID) for verdict in agreeing]
    apart = judged.agreement(people, judgements, [str(k) for k in range(40)])["kappa_ci"]
    two = judged.agreement(people, judgements, ["v1"] * 20 + ["v2"] * 20)["kappa_ci"]
    assert two == [-1.0, 1.0]
    assert apart[1] - apart[0] < 1


def test_one_label_has_no_kappa() -> None:
    row = judged.agreement(["a"] * 4, [Judgement("a", "a", SAID)] * 4, list("wxyz")) | {"judge": "hf:x/judge"}
    assert (row["kappa"], row["kappa_ci"], row["agreed"]) == (None, None, 4)
    assert "not defined" in judged.agreement_words(row)


def test_a_clear_preference_is_said() -> None:
    judgements = [Judgement("a", "a", SAID)] * 18 + [Judgement("b", "b", SAID)] * 2
    row = judged.tally(judgements, [f"c{k}" for k in range(20)]) | {"a": "x", "b": "y", "judge": "hf:x/judge"}
    (row,) = judged.adjusted([row])
    assert row["win_rate"] == 0.9
    assert row["win_rate_ci"][0] > 0.5
    assert "it prefers x" in judged.pair_words(row, {})
    # The turns of one conversation say less than those of many.
    together = judged.tally(judgements, ["c1"] * 10 + ["c2"] * 10)
    assert together["p"] > row["p"]


# The command line.


def command(server: FakeOpenAI, *more: str) -> list[str]:
    return [sys.executable, "-m", "evals", "judge", "--judge", server.name, "--quiet", *more]


def test_a_killed_command_goes_on(tmp_path: Path, runs_folder: Path, judge_model: FakeOpenAI) -> None:
    replies = [f"{RIGHT} {k}" for k in range(20)], [f"{WRONG} {k}" for k in range(20)]
    questions = [text for k in range(20) for text in (f"Question {k}?", "reference")]
    data, files = predictions(tmp_path, *replies)
    write_jsonl(data, [talk("t", *questions)])
    judge_model.delay_s = 0.2
    options = ["--predictions", *map(str, files), "--data", str(data), "--out", str(tmp_path / "out")]
    process = subprocess.Popen(command(judge_model, *options), cwd=PROJECT)
    while len(judge_model.answered) < 12:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    judge_model.delay_s = 0.0
    assert not (tmp_path / "out" / "judge.json").exists()
    before = len(judge_model.requests)
    assert 12 <= before < 40
    done = subprocess.run(command(judge_model, *options), cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "one against two won 20, tied 0 and lost 0 of 20 turns" in done.stdout
    # At most what was under way (8 at a time) is asked again.
    asked = Counter(request["messages"][-1]["content"] for request in judge_model.requests)
    assert len(asked) == 40
    assert asked.total() <= 40 + 8
    store = VoteStore()
    assert store.votes_count(Only(source="judge")) == 20
    store.close()


def test_the_command_line(folder: Path, judge_model: FakeOpenAI) -> None:
    store = VoteStore()
    voted(store, "a", RIGHT, WRONG)
    store.close()
    options = ["--report", str(folder), "--pair", "student", "baseline", "--votes"]
    done = subprocess.run(command(judge_model, *options), cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "student against baseline won 1, tied 4 and lost 1 of 6 turns" in done.stdout
    assert "chose the same in 1 of 1 battles" in done.stdout
    assert "4 calls, 0 of them answered before" in done.stdout
    done = subprocess.run(
        command(judge_model, *options, "--json"), cwd=PROJECT, capture_output=True, text=True, check=False
    )
    found = json.loads(done.stdout)
    assert [row["stored"] for row in [*found["rows"], *found["agreement"]]] == [4, 2]


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--run", "nobody"], 8, "There is no run 'nobody'"),
        (["--run", "x", "--report", "y"], 3, "give one of them"),
        (["--predictions", "a.jsonl", "b.jsonl"], 3, "needs --data"),
    ],
)
def test_a_wrong_command_is_told_so_in_words(
    options: list[str], code: int, words: str, judge_model: FakeOpenAI
) -> None:
    done = subprocess.run(command(judge_model, *options), cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_server_that_fails_for_good_is_said_in_words(folder: Path, judge_model: FakeOpenAI, votes: VoteStore) -> None:
    judge_model.always = Fault(status=400)
    with pytest.raises(RequestError):
        judge_report(folder, by(judge_model), votes)
    assert not (folder / "judge.json").exists()
    assert votes.votes_count() == 0
