"""Work in processes of its own: named, watched, waited for and stopped."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from distiller.errors import DataError, RunError
from distiller.progress import Progress
from distiller.watch import Watch
from distiller.work import LOG, in_turn, locked, start_work, stop_work, worker_of

#: A module that works in the folder it is given until it is interrupted; deaf, not even then.
WORKING = """
import signal, sys, time
from pathlib import Path
from distiller.progress import Progress
from distiller.work import locked

folder = Path(sys.argv[1])
if "deaf" in sys.argv:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
with locked(folder), Progress(folder / "events.jsonl", quiet=True).work():
    print("at work", flush=True)
    time.sleep(60)
"""


def until(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)


@pytest.fixture
def working(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "working_module.py").write_text(WORKING)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "working_module"


@pytest.mark.parametrize("how", ["polite", "deaf"])
def test_work_goes_on_by_itself_until_it_is_stopped(tmp_path: Path, working: str, how: str) -> None:
    folder = tmp_path / "run"
    start_work(folder, [working, str(folder), how])
    try:
        watch = Watch(folder)
        assert watch.state == "running"  # before the process has said a word
        until(lambda: watch.refresh().last == "start")
        with pytest.raises(RunError, match="worked on already"):
            start_work(folder, [working, str(folder)])
        with pytest.raises(RunError, match="by another process"), locked(folder):
            pass
    finally:
        assert stop_work(folder, patience_s=5.0 if how == "polite" else 0.5)
    assert worker_of(folder) is None
    assert Watch(folder).refresh().state == "stopped"
    assert (watch.refresh().last == "stopped") is (how == "polite")
    assert "at work" in (folder / LOG).read_text()
    assert not stop_work(folder)


def test_a_worker_is_told_from_a_process_that_has_its_number_now(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with locked(folder):
        named = json.loads((folder / ".worker").read_text())
        assert worker_of(folder) is not None
        (folder / ".worker").write_text(json.dumps(named | {"started": named["started"] - 10}))
        assert worker_of(folder) is None
        with locked(tmp_path / "other"):
            pass
    with locked(folder):
        with pytest.raises(RunError), locked(folder):
            pass
        assert worker_of(folder) is not None  # a refused one takes no name away
    assert not (folder / ".worker").exists()


def test_one_waits_for_the_other(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from distiller.work import in_turn\nwith in_turn(Path(sys.argv[1])): print('in')"
    with in_turn(tmp_path):
        second = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        with pytest.raises(subprocess.TimeoutExpired):
            second.wait(1.5)
    assert second.communicate(timeout=30)[0] == "in\n"


def test_events_are_read_on_as_they_come(tmp_path: Path) -> None:
    progress = Progress(tmp_path / "events.jsonl", quiet=True)
    watch = Watch(tmp_path)
    assert watch.refresh().state == "stopped"
    with pytest.raises(DataError), progress.work():  # noqa: PT012 - how the work fails after all that
        progress.event("stage", stage="train")
        with progress.track("Training", 10, "tokens") as tracker:
            tracker.advance(4)
            assert (bar := watch.refresh().bar) is not None
            assert (bar.done, bar.total, bar.unit, bar.final) == (4, 10, "tokens", False)
        progress.say("[bold]half[/bold] way")
        progress.event("loss", label="Training", step=3, loss=1.5)
        progress.event("epoch", label="Training", epoch=1, step=4, train={"loss": 1.0}, validation={"loss": 2.0})
        raise DataError("no more data")
    watch.refresh()
    assert (watch.stage, watch.notes, watch.bar) == ("train", ["half way"], None)
    assert watch.losses == [{"label": "Training", "step": 3, "loss": 1.5}]
    assert watch.epochs[0]["validation"] == {"loss": 2.0}
    assert (watch.state, watch.reason) == ("failed", "no more data")
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"time": 1, "event": "no')
        file.flush()
        assert watch.refresh().state == "failed"
        file.write('te", "text": "whole"}\n')
    assert watch.refresh().notes == ["half way", "whole"]
    with progress.work():
        pass
    assert watch.refresh().state == "complete"
    assert Watch(tmp_path).refresh() == watch
