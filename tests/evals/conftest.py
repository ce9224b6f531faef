"""The votes of a test, in a database of its own on each kind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from evals.votes import VoteStore


@pytest.fixture
def store(votes_url: str) -> Iterator[VoteStore]:
    opened = VoteStore(votes_url)
    yield opened
    opened.close()
