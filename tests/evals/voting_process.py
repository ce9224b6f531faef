"""A process that votes until it is killed: it prints each battle whose vote was confirmed. `URL` is its argument."""

from __future__ import annotations

import sys

from evals.votes import Reply, Side, VoteStore


def main() -> None:
    store = VoteStore(sys.argv[1], daily_votes=1_000_000)
    while True:
        opened = store.open_battle(Side("x"), Side("y"), visitor="v")
        store.add_turn(opened.battle_id, "Where is it?", Reply("Here."), Reply("There."))
        store.vote(opened.battle_id, opened.token, "v", "a", 1)
        print(opened.battle_id, flush=True)


if __name__ == "__main__":
    main()
