"""`python -m benchmarks`: all benchmarks, then one table that says which goals are met."""

from __future__ import annotations

import sys

from benchmarks import app, engine, headline, ratings
from benchmarks.common import print_results

#: In the order they run.
BENCHMARKS = (engine.main, headline.main, app.main, ratings.main)


def main() -> None:
    if "--stored" not in sys.argv[1:]:
        for benchmark in BENCHMARKS:
            benchmark()
    print_results()


if __name__ == "__main__":
    main()
