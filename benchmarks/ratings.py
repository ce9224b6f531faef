"""Votes and ratings: `python -m benchmarks.ratings` → `results/ratings.json`.

A hundred visitors at once vote over HTTP, each clicking twice at the same moment, on SQLite and on PostgreSQL: no
confirmed vote may be missing, and none may be there twice. Then 100,000 votes are rated, and paged through.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.common import Figure, write_result
from distiller.errors import DistillerError, VoteError
from evals.ratings import rate
from evals.votes import Reply, Side, VoteStore
from tests.evals.voters import fill, simulate
from tests.postgres import new_database, postgres_programs, serve_postgres

VISITORS = 100
BATTLES = 3  # of each visitor, one after the other
VOTES = 100_000
PAGE = 50
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
        lost, doubled = zip(
            *(visits(url) for url in (f"sqlite:///{folder / 'votes.sqlite'}", new_database(server))), strict=True
        )
        pages = [page_ms(url) for url in (f"sqlite:///{folder / 'pages.sqlite'}", new_database(server))]
    seconds = rate_s()
    figures = {
        "lost_votes": Figure(sum(lost), "votes", 0, lost),
        "doubled_votes": Figure(sum(doubled), "votes", 0, doubled),
        "rate_100k_s": Figure(statistics.median(seconds), "s", 5.0, seconds),
        "page_100k_ms": Figure(max(pages), "ms", 100.0, pages),
    }
    print(write_result("ratings", COMMAND, figures))


def visits(url: str) -> tuple[int, int]:
    """(lost, doubled) votes of VISITORS at once, each with BATTLES battles and two clicks for a vote."""
    with serve(url) as address:
        confirmed = asyncio.run(_all_visitors(address))
    store = VoteStore(url)
    stored = store.votes_table()["battle"].value_counts()
    store.close()
    battles = {battle for battle, _ in confirmed}
    lost = sum(battle not in stored.index for battle in battles)
    doubled = int((stored - 1).sum()) + sum(clicks > 1 for _, clicks in confirmed)
    if len(battles) != VISITORS * BATTLES or any(clicks == 0 for _, clicks in confirmed):
        raise DistillerError(f"Of {VISITORS * BATTLES} battles {len(battles)} got a vote: the run says nothing.")
    return lost, doubled


async def _all_visitors(address: str) -> list[tuple[str, int]]:
    """(battle, clicks that were confirmed) each."""
    limits = httpx.Limits(max_connections=2 * VISITORS)
    async with httpx.AsyncClient(base_url=address, limits=limits, timeout=TIMEOUT_S) as client:
        visitors = await asyncio.gather(*(_visitor(client, f"v{k}") for k in range(VISITORS)))
    return [battle for battles in visitors for battle in battles]


async def _visitor(client: httpx.AsyncClient, visitor: str) -> list[tuple[str, int]]:
    confirmed = []
    for _ in range(BATTLES):
        opened = (await client.post("/open", json={"visitor": visitor})).json()
        await client.post("/turn", json={"battle_id": opened["battle_id"]})
        click = opened | {"visitor": visitor}
        answers = await asyncio.gather(*(client.post("/vote", json=click) for _ in range(2)))
        confirmed.append((opened["battle_id"], sum(answer.status_code == 200 for answer in answers)))
    return confirmed


@contextmanager
def serve(url: str) -> Iterator[str]:
    """The app in a process of its own; its address."""
    spawn = multiprocessing.get_context("spawn")
    port = spawn.SimpleQueue()
    process = spawn.Process(target=_serve, args=(url, port), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{port.get()}"
    finally:
        process.terminate()
        process.join()


def _serve(url: str, port: Any) -> None:
    import socket

    import uvicorn

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(1024)
    app = voting_app(VoteStore(url))
    port.put(listener.getsockname()[1])
    # A connection that the server closes for idleness just as a visitor uses it again would end the run.
    config = uvicorn.Config(app, log_level="warning", lifespan="off", timeout_keep_alive=TIMEOUT_S)
    uvicorn.Server(config).run(sockets=[listener])


def voting_app(store: VoteStore) -> Any:
    """As the page does it: the store is called from worker threads."""
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    async def open_(request: Request) -> JSONResponse:
        asked = await request.json()
        opened = await run_in_threadpool(store.open_battle, Side("x"), Side("y"), visitor=asked["visitor"])
        return JSONResponse({"battle_id": opened.battle_id, "token": opened.token})

    async def turn(request: Request) -> JSONResponse:
        asked = await request.json()
        replies = Reply("It left today."), Reply("It leaves tomorrow.")
        index = await run_in_threadpool(store.add_turn, asked["battle_id"], "Where is it?", *replies)
        return JSONResponse({"index": index})

    async def vote(request: Request) -> JSONResponse:
        asked = await request.json()
        try:
            cast = await run_in_threadpool(
                store.vote, asked["battle_id"], asked["token"], asked["visitor"], "a", 1, "page"
            )
        except VoteError as error:
            return JSONResponse({"error": str(error)}, status_code=409)
        return JSONResponse({"choice": cast.choice})

    return Starlette(routes=[Route(f"/{f.__name__.strip('_')}", f, methods=["POST"]) for f in (open_, turn, vote)])


def page_ms(url: str) -> float:
    """The median of pages from all over a table of VOTES votes, in milliseconds."""
    store = VoteStore(url)
    fill(url, VOTES)
    taken = []
    for before in range(PAGE, VOTES, VOTES // 50):
        start = time.perf_counter()
        store.votes_table(limit=PAGE, before=before)
        taken.append(1000 * (time.perf_counter() - start))
    store.close()
    return round(statistics.median(taken), 2)


def rate_s() -> list[float]:
    """Seconds for the board of VOTES votes on six models with 1,000 resamples, by visitor."""
    strengths = np.array([1.0, 0.6, 0.2, -0.2, -0.6, -1.0])
    table = simulate(strengths, VOTES, np.random.default_rng(0), visitors=5_000)
    taken = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        rate(table, cluster="visitor")
        taken.append(round(time.perf_counter() - start, 3))
    return taken


if __name__ == "__main__":
    main()
