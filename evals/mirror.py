"""A second copy of the votes, for a page whose disk does not last: JSONL in a private Hub dataset.

    votes/<time>-<random>.jsonl   {"table": "votes", "battle": ..., "choice": ..., ...}   one row a line

Each process appends to a file of its own, so none waits for another and nothing is overwritten. What was not yet
uploaded when a machine is lost (at most UPLOAD_EVERY_MIN minutes) is lost with it: where every vote matters, set
DATABASE_URL. The Hub is behind a seam, `Hub`; a test puts a local folder there.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from distiller.errors import VoteError
from distiller.runs import runs_folder
from distiller.schema import read_jsonl

UPLOAD_EVERY_MIN = 5
_log = logging.getLogger(__name__)


class Hub(Protocol):
    def download(self, folder: Path) -> None:
        """Brings every file that was ever uploaded into `folder`, which is new. Raises VoteError out of reach."""

    def upload(self, folder: Path) -> AbstractContextManager[Any]:
        """Uploads `folder` again and again from now on. What it returns is held while a file grows."""


class Mirror:
    def __init__(self, hub: Hub, folder: Path | None = None) -> None:
        self._hub = hub
        own = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{secrets.token_hex(8)}"
        folder = (folder or runs_folder() / "votes-mirror") / own
        folder.mkdir(parents=True)
        self._file = folder / f"{own}.jsonl"
        self._lock = hub.upload(folder)

    def append(self, table: str, row: dict[str, Any]) -> None:
        """The vote is stored already, so a full disk is written to the log and not held against the visitor."""
        line = json.dumps({"table": table} | row, ensure_ascii=False) + "\n"
        try:
            with self._lock, self._file.open("a", encoding="utf-8") as file:
                file.write(line)
        except OSError:
            _log.exception("a row of %s is not in the mirror %s", table, self._file)

    def read(self) -> dict[str, list[dict[str, Any]]]:
        """All rows of all processes so far, by table."""
        rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "votes"  # new: out of reach, the Hub's client is content with a folder that exists
            self._hub.download(folder)
            for path in sorted(folder.rglob("*.jsonl")):
                for row in read_jsonl(path):
                    rows[row.pop("table")].append(row)
        return rows


class HubDataset:
    """The Hugging Face Hub, by its own CommitScheduler."""

    def __init__(self, name: str, token: str) -> None:
        self._name = name
        self._token = token

    def download(self, folder: Path) -> None:
        from huggingface_hub import snapshot_download

        try:
            snapshot_download(
                self._name, repo_type="dataset", token=self._token, local_dir=folder, allow_patterns="votes/*.jsonl"
            )
        except Exception as error:
            raise self._unreachable(error) from error

    def upload(self, folder: Path) -> AbstractContextManager[Any]:
        from huggingface_hub import CommitScheduler

        try:
            scheduler = CommitScheduler(
                repo_id=self._name,
                repo_type="dataset",
                private=True,
                folder_path=folder,
                path_in_repo="votes",
                every=UPLOAD_EVERY_MIN,
                token=self._token,
            )
        except Exception as error:
            raise self._unreachable(error) from error
        return scheduler.lock

    def _unreachable(self, error: Exception) -> VoteError:
        return VoteError(
            f"VOTES_DATASET={self._name} cannot be used ({type(error).__name__}: {error}). Write OWNER/NAME, and give "
            "HF_TOKEN the right to write there; without VOTES_DATASET the votes have no second copy."
        )


def mirror_from_environment(token_of: Callable[[], str | None] | None = None) -> Mirror | None:
    """Where VOTES_DATASET names a dataset and there is a token for the Hub (`token_of`). Raises VoteError."""
    name = os.environ.get("VOTES_DATASET")
    if not name:
        return None
    from huggingface_hub import get_token

    token = (token_of or get_token)()
    if token is None:
        _log.warning("VOTES_DATASET=%s is not used: there is no token for the Hub. Set HF_TOKEN.", name)
        return None
    return Mirror(HubDataset(name, token))
