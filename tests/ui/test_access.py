"""Owners and visitors of a page, and what each may do."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.ui.requests import request
from ui.access import AccessError, RateLimit, Visitor, require_owner, visitor_of


def test_on_ones_own_machine_everyone_is_the_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SPACE_ID", "DISTILLER_PUBLIC"):
        monkeypatch.delenv(name, raising=False)
    assert visitor_of(request()).owner
    require_owner(request(), "Editing")


def test_on_a_space_only_its_author_and_the_named_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPACE_ID", "fern/shop")
    monkeypatch.setenv("DISTILLER_OWNERS", "ada, ben")
    assert visitor_of(request(login="fern")).owner
    assert visitor_of(request(login="ben")).owner
    assert not visitor_of(request(login="ben", expires=time.time() - 1)).owner
    assert not visitor_of(request(login="eve")).owner
    assert not visitor_of(request()).owner
    assert not visitor_of(None).owner
    with pytest.raises(AccessError, match="Editing is for the owner"):
        require_owner(request(login="eve"), "Editing")


def test_visitors_are_told_apart_and_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILLER_PUBLIC", "1")
    first, again, other = (visitor_of(request(address)).id for address in ("10.0.0.1", "10.0.0.1", "10.0.0.2"))
    assert first == again != other
    assert "10.0" not in first
    assert visitor_of(request("10.0.0.2", login="eve")).id not in {first, other}
    monkeypatch.setenv("DISTILLER_SALT", "another")
    assert visitor_of(request("10.0.0.1")).id != first


def test_a_visitor_is_slowed_down_and_the_others_are_not() -> None:
    limit = RateLimit("questions", times=2, seconds=0.3)
    visitor, other, owner = Visitor("v", False), Visitor("w", False), Visitor("o", True)
    limit.check(visitor)
    limit.check(visitor)
    with pytest.raises(AccessError, match="2 questions within"):
        limit.check(visitor)
    limit.check(other)
    for _ in range(5):
        limit.check(owner)
    time.sleep(0.35)
    limit.check(visitor)


def test_visitors_who_come_at_once_to_a_new_page_get_one_salt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILLER_PUBLIC", "1")
    with ThreadPoolExecutor(16) as pool:
        assert len(set(pool.map(lambda _: visitor_of(request()).id, range(64)))) == 1
