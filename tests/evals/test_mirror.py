"""The second copy of the votes, with a local folder in the place of the Hub."""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from distiller.errors import VoteError
from evals.mirror import HubDataset, Mirror, mirror_from_environment
from evals.votes import VoteStore
from tests.evals.test_votes import cast, play


class FolderHub:
    """What the Hub does, by hand: `sync` is the upload that the real one does every few minutes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.watched: list[Path] = []

    def download(self, folder: Path) -> None:
        if self.folder.exists():
            shutil.copytree(self.folder, folder, dirs_exist_ok=True)

    def upload(self, folder: Path) -> AbstractContextManager[Any]:
        self.watched.append(folder)
        return threading.Lock()

    def sync(self) -> None:
        for folder in self.watched:
            shutil.copytree(folder, self.folder / "votes", dirs_exist_ok=True)


def start(tmp_path: Path, hub: FolderHub, disk: str) -> VoteStore:
    """A process on a fresh disk."""
    return VoteStore(f"sqlite:///{tmp_path / disk / 'arena.sqlite'}", mirror=Mirror(hub, tmp_path / disk / "mirror"))


def test_an_empty_database_takes_up_where_the_last_one_ended(tmp_path: Path) -> None:
    hub = FolderHub(tmp_path / "hub")
    first, beside = start(tmp_path, hub, "disk1"), start(tmp_path, hub, "disk2")
    opened = play(first, intent="refund")
    cast(first, opened, "b")
    first.report(opened.battle_id, "v", "Rude.")
    revealed = play(first)
    first.reveal(revealed.battle_id)
    cast(beside, play(beside), "tie")
    hub.sync()

    second = start(tmp_path, hub, "disk3")
    assert sorted(second.votes_table()["choice"]) == ["b", "tie"]
    assert second.battle(opened.battle_id) == first.battle(opened.battle_id)
    assert second.vote(revealed.battle_id, revealed.token, "v", "a", 1).why_not == "after_reveal"
    hub.sync()

    third = start(tmp_path, hub, "disk4")
    assert third.votes_count() == 3
    assert len(list((tmp_path / "hub" / "votes").glob("*.jsonl"))) == 3
    for store in (first, beside, second, third):
        store.close()


def test_a_database_with_votes_is_left_as_it_is(tmp_path: Path) -> None:
    hub = FolderHub(tmp_path / "hub")
    store = start(tmp_path, hub, "disk")
    cast(store, play(store))
    hub.sync()
    store.close()
    again = start(tmp_path, hub, "disk")
    assert again.votes_count() == 1
    again.close()


def test_a_torn_line_and_a_turn_without_its_battle_are_left_out(tmp_path: Path) -> None:
    hub = FolderHub(tmp_path / "hub")
    store = start(tmp_path, hub, "disk1")
    cast(store, play(store))
    hub.sync()
    (file,) = (tmp_path / "hub" / "votes").iterdir()
    lines = file.read_text("utf-8").splitlines(keepends=True)
    file.write_text("".join(lines) + lines[0][:30], "utf-8")
    (file.parent / "other.jsonl").write_text(lines[1].replace('"battle": "', '"battle": "un'), "utf-8")
    second = start(tmp_path, hub, "disk2")
    assert second.votes_count() == 1
    store.close()
    second.close()


def test_many_threads_write_whole_lines(tmp_path: Path) -> None:
    hub = FolderHub(tmp_path / "hub")
    store = start(tmp_path, hub, "disk1")
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda k: cast(store, play(store, visitor=f"v{k}")), range(40)))
    hub.sync()
    second = start(tmp_path, hub, "disk2")
    assert set(second.votes_table()["battle"]) == set(store.votes_table()["battle"])
    store.close()
    second.close()


def test_without_a_dataset_or_a_token_there_is_none(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert mirror_from_environment() is None
    monkeypatch.setenv("VOTES_DATASET", "someone/votes")
    assert mirror_from_environment(lambda: None) is None
    assert "HF_TOKEN" in caplog.text


def test_a_hub_out_of_reach_is_told_in_words(tmp_path: Path) -> None:
    """The tests are offline: the real client says so."""
    with pytest.raises(VoteError, match="VOTES_DATASET=someone/votes cannot be used"):
        Mirror(HubDataset("someone/votes", "token"), tmp_path)
    with pytest.raises(VoteError, match="VOTES_DATASET=someone/votes cannot be used"):
        HubDataset("someone/votes", "token").download(tmp_path / "new")
