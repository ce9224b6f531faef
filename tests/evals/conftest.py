"""The votes database of a test: SQLite in its own folder, and a database of its own on a real PostgreSQL server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from evals.votes import VoteStore
from tests.postgres import new_database, postgres_programs, serve_postgres


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    programs = postgres_programs()
    if programs is None:
        words = "there is no PostgreSQL server under /usr/lib/postgresql (apt-get install postgresql)"
        if os.environ.get("CI"):
            pytest.fail(words)
        pytest.skip(words)
    with serve_postgres(programs) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def votes_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database; what uses it runs once on each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'arena.sqlite'}"
    return new_database(request.getfixturevalue("postgres_url"))


@pytest.fixture
def store(votes_url: str) -> Iterator[VoteStore]:
    opened = VoteStore(votes_url)
    yield opened
    opened.close()
