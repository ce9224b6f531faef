"""The votes database, on SQLite and on PostgreSQL: nothing is lost, doubled, changed or shown too early."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import event

from distiller.errors import VoteError
from evals.database import Database, database_url
from evals.votes import Choice, Only, Opened, Reply, Side, Turn, VoteStore
from evals.votes_tables import Table
from tests.conftest import PROJECT
from tests.evals.voters import fill, simulate

STUDENT = Side("run:desk-1/student", "the student", "sha256:1")
TEACHER = Side("openai:big@https://models.example/v1", "the teacher")


def play(store: VoteStore, *, visitor: str = "v", reply_b: str = "It is there.", **more: Any) -> Opened:
    """A battle with one turn that both answered."""
    opened = store.open_battle(STUDENT, TEACHER, visitor=visitor, **more)
    store.add_turn(opened.battle_id, "Where is it?", Reply("It is here."), Reply(reply_b))
    return opened


def cast(store: VoteStore, opened: Opened, choice: Choice = "a", **more: Any) -> Any:
    return store.vote(
        opened.battle_id, opened.token, more.pop("visitor", "v"), choice, more.pop("turns_seen", 1), **more
    )


def refused(call: Callable[[], object], words: str) -> None:
    with pytest.raises(VoteError, match=words):
        call()


def test_a_battle_is_kept_as_it_was(store: VoteStore) -> None:
    opened = store.open_battle(STUDENT, TEACHER, visitor="v", data_set="helpdesk", conversation="c-7", intent="refund")
    first = Reply("Hello.", 1.5, 0.25, 3, 2.0, 0.75)
    assert store.add_turn(opened.battle_id, "Hi", first, Reply("", error="timed out")) == 0
    assert store.add_turn(opened.battle_id, "Where?\0 \ud800", Reply("Here."), Reply("There.")) == 1
    battle = store.battle(opened.battle_id)
    assert [turn.query for turn in battle.turns] == ["Hi", "Where? ?"]
    assert (battle.turns[0].a, battle.turns[0].b.error) == (first, "timed out")
    assert (battle.data_set, battle.conversation, battle.intent) == ("helpdesk", "c-7", "refund")
    assert (battle.mode, battle.source, battle.choice) == ("blind", "page", None)


def test_names_are_hidden_until_they_are_shown_or_voted_on(store: VoteStore) -> None:
    hidden, revealed, voted, named = play(store), play(store), play(store), play(store, mode="named")
    store.reveal(revealed.battle_id)
    cast(store, voted)
    assert store.battle(hidden.battle_id).a is store.battle(hidden.battle_id).b is None
    for opened in (revealed, voted, named):
        battle = store.battle(opened.battle_id)
        assert (battle.a, battle.b) == (STUDENT, TEACHER)


def test_a_vote_is_one_row_of_the_table(store: VoteStore) -> None:
    vote = cast(store, play(store, data_set="helpdesk", intent="refund"), "tie")
    assert (vote.counted, vote.why_not) == (True, None)
    (row,) = store.votes_table().to_dict("records")
    assert row["created"].timestamp() == pytest.approx(vote.created, abs=1e-3)
    wanted: dict[str, object] = {
        "model_a": STUDENT.model,
        "model_b": TEACHER.model,
        "label_a": "the student",
        "choice": "tie",
    }
    wanted |= {"visitor": "v", "intent": "refund", "data_set": "helpdesk", "turns": 1, "source": "page"}
    wanted |= {"len_a": len("It is here."), "len_b": len("It is there."), "leak": False, "after_reveal": False}
    assert {key: row[key] for key in wanted} == wanted


def test_a_second_vote_changes_nothing(store: VoteStore) -> None:
    opened = play(store)
    cast(store, opened, "b")
    refused(lambda: cast(store, opened, "a"), r"has its vote already \(b\)")
    assert store.battle(opened.battle_id).choice == "b"
    assert store.votes_count() == 1


def test_what_is_no_vote_is_refused_in_words(store: VoteStore) -> None:
    opened = play(store)
    refused(lambda: store.vote(opened.battle_id, "guess", "v", "a", 1), "not the token")
    refused(lambda: store.vote("no-such", opened.token, "v", "a", 1), "no battle 'no-such'")
    refused(lambda: store.vote(opened.battle_id, opened.token, "v", "left", 1), "no choice 'left'")  # type: ignore[arg-type]
    refused(lambda: cast(store, opened, turns_seen=2), "2 turns of a battle that has 1")
    refused(lambda: cast(store, opened, turns_seen=0), "no turn yet")
    empty = store.open_battle(STUDENT, TEACHER, visitor="v")
    refused(lambda: cast(store, empty), "no turn yet")
    store.add_turn(empty.battle_id, "Hi", Reply("Hello."), Reply("", error="timed out"))
    refused(lambda: cast(store, empty), "no turn yet")
    assert store.votes_count() == 0


def test_votes_that_are_not_blind_or_not_a_person_s_are_kept_apart(store: VoteStore) -> None:
    revealed = play(store)
    store.reveal(revealed.battle_id)
    store.reveal(revealed.battle_id)
    votes = [
        cast(store, play(store)),
        cast(store, revealed),
        cast(store, play(store, mode="named")),
        cast(store, play(store), source="api"),
        cast(store, play(store), source="mcp"),
        cast(store, play(store, reply_b="I am ChatGPT.")),
    ]
    assert [vote.why_not for vote in votes] == [None, "after_reveal", "named", "api", "mcp", "leak"]
    table = store.votes_table()
    assert len(table) == 6
    assert table["counted"].sum() == 1
    assert table.set_index("why_not").loc["after_reveal", "after_reveal"]


def test_what_is_said_after_the_vote_does_not_touch_it(store: VoteStore) -> None:
    opened = play(store)
    cast(store, opened)
    store.add_turn(opened.battle_id, "Who are you?", Reply("I am ChatGPT."), Reply("I am Claude."))
    (row,) = store.votes_table().to_dict("records")
    assert (row["turns"], row["leak"], row["counted"]) == (1, False, True)


def test_a_visitor_has_so_many_votes_a_day(votes_url: str) -> None:
    store = VoteStore(votes_url, daily_votes=2)
    cast(store, play(store))
    cast(store, play(store))
    third = play(store)
    refused(lambda: cast(store, third), "2 votes within 24 hours")
    cast(store, third, visitor="another")
    assert store.votes_count() == 3
    store.close()


def test_reports(store: VoteStore) -> None:
    opened = play(store)
    store.report(opened.battle_id, "v", "It insults me.")
    store.report(opened.battle_id, "v", "It insults me, again.")
    refused(lambda: store.report(opened.battle_id, "v", "  "), "0 characters")
    refused(lambda: store.report(opened.battle_id, "v", "x" * 2001), "2001 characters")
    refused(lambda: store.report("no-such", "v", "x"), "no battle")


def test_the_table_by_filter_and_by_page(store: VoteStore) -> None:
    for intent in ("refund", "refund", "order"):
        cast(store, play(store, intent=intent))
    cast(store, play(store), source="api")
    assert store.votes_count(Only(intent="refund")) == len(store.votes_table(Only(intent="refund"))) == 2
    assert store.votes_count(Only(counted=False)) == store.votes_count(Only(source="api")) == 1
    assert store.votes_count(Only(model=TEACHER.model)) == 4
    assert store.votes_count(Only(model="other")) == len(store.votes_table(Only(model="other"))) == 0
    first = store.votes_table(limit=3)
    rest = store.votes_table(limit=3, before=int(first["number"].iloc[-1]))
    assert [*first["number"], *rest["number"]] == list(store.votes_table()["number"])
    assert first["number"].is_monotonic_decreasing


def test_pages_of_10_000_votes(votes_url: str) -> None:
    store = VoteStore(votes_url)
    fill(votes_url, simulate(np.zeros(2), 10_000, np.random.default_rng(0)))
    assert store.votes_count() == 10_000
    page = store.votes_table(limit=50, before=5_001)
    assert (page["number"].iloc[0], page["number"].iloc[-1], len(page)) == (5_000, 4_951, 50)
    store.close()


def test_only_reads_and_inserts(store: VoteStore) -> None:
    said: set[str] = set()

    @event.listens_for(store._database.engine, "before_cursor_execute")
    def note(connection: Any, cursor: Any, statement: str, *more: Any) -> None:
        said.add(statement.split(maxsplit=1)[0].upper())

    opened = play(store)
    store.reveal(opened.battle_id)
    cast(store, opened)
    store.report(opened.battle_id, "v", "Rude.")
    store.battle(opened.battle_id)
    store.votes_table()
    assert said <= {"SELECT", "INSERT", "BEGIN"}


def test_a_hundred_threads_lose_and_double_nothing(store: VoteStore) -> None:
    """Each visitor opens a battle, asks, and clicks twice."""

    def visit(number: int) -> tuple[str, int]:
        opened = play(store, visitor=f"v{number}")
        accepted = 0
        for choice in ("a", "b"):
            try:
                store.vote(opened.battle_id, opened.token, f"v{number}", choice, 1)  # type: ignore[arg-type]
                accepted += 1
            except VoteError:
                pass
        return opened.battle_id, accepted

    with ThreadPoolExecutor(100) as pool:
        results = list(pool.map(visit, range(100)))
    assert [accepted for _, accepted in results] == [1] * 100
    table = store.votes_table()
    assert sorted(table["battle"]) == sorted(battle for battle, _ in results)
    assert set(table["choice"]) == {"a"}


def test_one_token_used_by_fifty_threads_counts_once(store: VoteStore) -> None:
    opened = play(store)

    def click(number: int) -> str:
        try:
            return cast(store, opened, visitor=f"v{number}").choice
        except VoteError as error:
            return str(error)

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(click, range(50)))
    assert answers.count("a") == store.votes_count() == 1
    assert sum("has its vote already" in answer for answer in answers) == 49


def test_the_daily_bound_holds_for_many_threads(votes_url: str) -> None:
    store = VoteStore(votes_url, daily_votes=5)
    battles = [play(store) for _ in range(20)]

    def click(opened: Opened) -> bool:
        try:
            return bool(cast(store, opened))
        except VoteError:
            return False

    with ThreadPoolExecutor(20) as pool:
        assert sum(pool.map(click, battles)) == store.votes_count() == 5
    store.close()


def test_a_killed_process_loses_no_confirmed_vote(votes_url: str) -> None:
    command = [sys.executable, "-m", "tests.evals.voting_process", votes_url]
    process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    confirmed = [process.stdout.readline().strip() for _ in range(40)]
    process.kill()
    confirmed += process.stdout.read().split()
    process.wait()
    store = VoteStore(votes_url)
    table = store.votes_table()
    # The last vote may be stored without its word having reached us.
    assert set(confirmed) <= set(table["battle"])
    assert len(table) <= len(confirmed) + 1
    cast(store, play(store))
    store.close()


def test_processes_that_open_at_once_migrate_once(votes_url: str) -> None:
    code = "import sys; from evals.votes import VoteStore; print(VoteStore(sys.argv[1]).votes_count())"
    command = [sys.executable, "-c", code, votes_url]
    started = [subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[0].strip() for process in started] == ["0"] * 3
    with ThreadPoolExecutor(8) as pool:
        for store in pool.map(lambda _: VoteStore(votes_url), range(8)):
            store.close()


def test_the_migrations_make_the_tables_of_the_code(votes_url: str) -> None:
    database = Database(database_url(votes_url))
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Table.metadata) == []
    database.close()


def test_where_the_votes_are(monkeypatch: pytest.MonkeyPatch, runs_folder: Path) -> None:
    assert database_url().database == str(runs_folder / "arena.sqlite")
    for scheme in ("postgres", "postgresql", "postgresql+psycopg"):
        monkeypatch.setenv("DATABASE_URL", f"{scheme}://u:secret@host/votes")
        assert database_url().drivername == "postgresql+psycopg"
    for wrong in ("mysql://u:secret@host/votes", "sqlite://", "nonsense"):
        with pytest.raises(VoteError) as caught:
            VoteStore(wrong)
        assert "secret" not in str(caught.value)


def test_a_database_that_cannot_be_used_is_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("This is no database, and has more than a few letters." * 20)
    refused(lambda: VoteStore(f"sqlite:///{tmp_path / 'note.txt'}"), "not a database")
    with pytest.raises(VoteError, match="refused") as caught:
        VoteStore("postgresql://u:secret@127.0.0.1:1/votes?password=hidden")
    assert "secret" not in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_a_judge_s_battle_is_stored_once_and_never_counted(votes_url: str) -> None:
    store = VoteStore(votes_url, daily_votes=1)
    turns = [Turn("Where is it?", Reply("Here."), Reply("I do not know.")), Turn("And now?", Reply(""), Reply("Gone."))]
    where = {"data_set": "helpdesk", "conversation": "c-7", "intent": "refund"}
    for number in ("1", "2"):  # the daily bound is for visitors
        assert store.add_judged(number, STUDENT, TEACHER, turns, "b", judge="hf:x/judge", **where)
    assert not store.add_judged("1", STUDENT, TEACHER, turns, "a", judge="hf:x/judge", **where)
    first, second = store.votes_table(Only(source="judge")).to_dict("records")
    assert (first["battle"], second["battle"], second["choice"]) == ("2", "1", "b")
    assert (second["visitor"], second["counted"], second["why_not"]) == ("judge:hf:x/judge", False, "judge")
    assert (second["turns"], second["len_a"], second["conversation"]) == (2, 5, "c-7")
    assert store.battle("1").turns == tuple(turns)
    refused(lambda: store.vote("1", "", "v", "a", 1), "not the token")
    assert store.votes_count(Only(counted=True)) == 0
    cast(store, play(store))  # people's votes go on beside it
    assert store.votes_count(Only(counted=True)) == 1
    store.close()
