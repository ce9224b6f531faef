"""Votes and ratings: `python -m benchmarks.ratings` → `results/ratings.json`.

A hundred visitors at once vote on the page of the real app, each clicking twice at the same moment, and once more while
the app is killed, on SQLite and on PostgreSQL: no confirmed vote may be missing, and none may be there twice. Then
100,000 votes are rated, and the app's leaderboard is asked for over them: by a program and by the tab, first after a
start, and each time after a new vote.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import httpx
import numpy as np

from benchmarks.common import Figure, write_result
from distiller.chat.bundled import chat_model_folder
from distiller.errors import DistillerError
from evals.ratings import rate
from evals.votes import Reply, Side, VoteStore
from tests.evals.voters import fill, simulate
from tests.postgres import new_database, postgres_programs, serve_postgres
from tests.reports import make_report
from tests.ui.served import start
from tests.ui.visitors import API, Crowd, events_of_buttons, make_voting_run, voted

VISITORS = 100
VOTES = 100_000
ROLES = ("teacher", "student", "baseline", "reference_trained", "untouched")
MODELS = [*(f"run:r1/{role}" for role in ROLES), "hf:owner/another"]
STRENGTHS = np.array([1.0, 0.6, 0.2, -0.2, -0.6, -1.0])
PAGES = 15
REPEATS = 3
TIMEOUT_S = 120
COMMAND = "python -m benchmarks.ratings"


def main() -> None:
    programs = postgres_programs()
    if programs is None:
        raise DistillerError("This benchmark needs a PostgreSQL server: apt-get install postgresql")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(serve_postgres(programs))

        def databases(what: str) -> list[tuple[Path, str]]:
            """(folder of the app, URL) of an empty database of each kind."""
            urls = {"sqlite": f"sqlite:///{folder / what}.sqlite", "postgresql": new_database(server)}
            return [(folder / f"{what}-{kind}", url) for kind, url in urls.items()]

        lost, doubled = zip(*(visits(*where) for where in databases("votes")), strict=True)
        firsts, pages = zip(*(pages_ms(*where) for where in databases("pages")), strict=True)
    medians = [median for of_database in pages for median in of_database]
    seconds = rate_s()
    figures = {
        "lost_votes": Figure(sum(lost), "votes", 0, lost),
        "doubled_votes": Figure(sum(doubled), "votes", 0, doubled),
        "rate_100k_s": Figure(statistics.median(seconds), "s", 5.0, seconds),
        "page_100k_ms": Figure(max(medians), "ms", 300.0, medians),
        "first_page_100k_ms": Figure(max(firsts), "ms", 1000.0, firsts),
    }
    print(write_result("ratings", COMMAND, figures))


def visits(folder: Path, url: str) -> tuple[int, int]:
    """(lost, doubled) votes of VISITORS at once, and of as many again of whom the app was killed in the middle."""
    make_voting_run(folder, Path(chat_model_folder("smollm2-135m-instruct")), 2 * VISITORS)
    app, address = start(folder, "app.py", DATABASE_URL=url)
    crowd = Crowd(address)
    try:
        asyncio.run(crowd.ask_and_vote(range(VISITORS)))
        if len(crowd.confirmed) != VISITORS:
            raise DistillerError(f"Of {VISITORS} visitors {len(crowd.confirmed)} could vote: the run says nothing.")
        crowd.after_each = lambda: app.kill() if len(crowd.confirmed) == 1.3 * VISITORS else None
        asyncio.run(crowd.ask_and_vote(range(VISITORS, 2 * VISITORS)))
    finally:
        app.kill()
        app.wait(60)
    store = VoteStore(url)
    stored = voted(store)
    store.close()
    return len(set(crowd.confirmed) - set(stored)), len(stored) - len(set(stored))


def pages_ms(folder: Path, url: str) -> tuple[float, list[float]]:
    """The first leaderboard after a start, and the medians after a new vote of the endpoint and of the tab."""
    report = {model: [k % 6 >= place for k in range(150)] for place, model in enumerate(MODELS)}
    make_report(folder / "runs" / "r1", report, turns=[(f"c{k // 2}", k % 2 + 1, "refund") for k in range(150)])
    table = simulate(STRENGTHS, VOTES, np.random.default_rng(0), visitors=5_000)
    fill(url, table.replace({f"m{k}": model for k, model in enumerate(MODELS)}))
    app, address = start(folder, "app.py", DATABASE_URL=url)
    store = VoteStore(url)
    try:
        with httpx.Client(base_url=address, timeout=TIMEOUT_S) as client:
            refresh = events_of_buttons(client.get("/config").json())["refresh"]
            first = _timed(lambda: _endpoint(client), VOTES)
            medians = []
            voted_on = VOTES
            for ask in (lambda: _endpoint(client), lambda: _tab(client, refresh)):
                taken = []
                for _ in range(PAGES):
                    _one_more_vote(store)
                    voted_on += 1
                    taken.append(_timed(ask, voted_on))
                medians.append(round(statistics.median(taken), 1))
    finally:
        store.close()
        app.terminate()
        app.wait(60)
    return first, medians


def _timed(ask: Callable[[], int], votes: int) -> float:
    """Milliseconds; the page must be of all votes there are."""
    begun = time.perf_counter()
    shown = ask()
    taken = 1000 * (time.perf_counter() - begun)
    if shown != 2 * votes:
        raise DistillerError(f"The page counts {shown} sides of votes instead of {2 * votes}: it is stale.")
    return round(taken, 1)


def _endpoint(client: httpx.Client) -> int:
    """As a program asks: the votes that its rows count."""
    event = client.post(f"{API}/call/leaderboard", json={"data": []}).json()["event_id"]
    [line] = [line for line in client.get(f"{API}/call/leaderboard/{event}").text.splitlines() if line[:5] == "data:"]
    return sum(row["votes"] or 0 for row in json.loads(line[5:])[0])


def _tab(client: httpx.Client, refresh: int) -> int:
    """As the page asks."""
    body = {"data": [None, None, None], "event_data": None, "fn_index": refresh, "session_hash": "benchmark"}
    answer = client.post(f"{API}/run/predict", json=body)
    answer.raise_for_status()
    table = next(value for value in answer.json()["data"] if isinstance(value, dict) and "headers" in str(value))
    value = table.get("value", table)
    column = value["headers"].index("votes")
    return sum(row[column] or 0 for row in value["data"])


def _one_more_vote(store: VoteStore) -> None:
    opened = store.open_battle(Side(MODELS[0]), Side(MODELS[1]), visitor="benchmark")
    store.add_turn(opened.battle_id, "Where is it?", Reply("Here."), Reply("There."))
    store.vote(opened.battle_id, opened.token, "benchmark", "a", 1)


def rate_s() -> list[float]:
    """Seconds for the board of VOTES votes on six models with 1,000 resamples, by visitor."""
    table = simulate(STRENGTHS, VOTES, np.random.default_rng(0), visitors=5_000)
    taken = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        rate(table, cluster="visitor")
        taken.append(round(time.perf_counter() - start, 3))
    return taken


if __name__ == "__main__":
    main()
