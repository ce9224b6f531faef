"""A hundred visitors vote on the real page at once and the app is killed: no vote that was confirmed is lost or doubled."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from gradio_client import Client

from evals.votes import VoteStore
from tests.ui.served import start
from tests.ui.visitors import Crowd, make_voting_run, voted

VISITORS = 100
KILLED_AFTER = 30  # confirmed votes


def test_a_kill_in_the_middle_of_a_hundred_votes(votes_url: str, bundled_folder: Path, tmp_path: Path) -> None:
    make_voting_run(tmp_path, bundled_folder, VISITORS + 1)
    app, address = start(tmp_path, "app.py", DATABASE_URL=votes_url)
    crowd = Crowd(address)
    crowd.after_each = lambda: app.kill() if len(crowd.confirmed) == KILLED_AFTER else None
    try:
        asyncio.run(crowd.ask_and_vote(range(VISITORS)))
    finally:
        app.kill()
    assert app.wait(30) == -signal.SIGKILL
    # The kill came in the middle: who had not read the confirmation by then never did.
    assert KILLED_AFTER <= len(crowd.confirmed) < VISITORS

    app, address = start(tmp_path, "app.py", DATABASE_URL=votes_url)
    try:
        store = VoteStore(votes_url)
        stored = voted(store)
        assert set(crowd.confirmed) <= set(stored)
        assert len(stored) == len(set(stored))
        later = Crowd(address)
        asyncio.run(later.ask_and_vote([VISITORS]))
        assert later.confirmed == [VISITORS]
        assert voted(store) == [*stored, VISITORS]
        store.close()
        rows = Client(address, verbose=False).predict(api_name="/leaderboard")
        # Two models, both in every battle.
        assert [row["votes"] for row in rows if row["votes"]] == [len(stored) + 1] * 2
    finally:
        app.terminate()
        app.wait(30)
