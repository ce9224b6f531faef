"""Who is asking, and what they may do.

On a laptop everyone who reaches the page is its owner: it listens on this machine only. A public page
(a Space, or DISTILLER_PUBLIC=1 behind a proxy of one's own) has visitors, and owners that are logged in with
Hugging Face: the Space's author and those in DISTILLER_OWNERS, with commas.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import gradio as gr

from distiller.errors import DistillerError
from distiller.runs import Run, list_runs, runs_folder
from distiller.schema import write_text

_STARTED_BY = ".visitor"


class AccessError(DistillerError):
    """What this visitor may not do, or not so often."""


@dataclass(frozen=True)
class Visitor:
    """`id` tells visitors apart without saying who they are: a salted hash of the login, else of the address."""

    id: str
    owner: bool


def public() -> bool:
    return bool(os.environ.get("SPACE_ID") or os.environ.get("DISTILLER_PUBLIC"))


def visitor_of(request: gr.Request | None) -> Visitor:
    """The visitor behind an event. Without a request (a call from code on this machine) it is the owner."""
    if request is None:
        return Visitor("local", not public())
    login = _login(request)
    address = request.client.host if request.client else "unknown"
    return Visitor(_hash(f"login {login}" if login else f"address {address}"), not public() or login in _owners())


def require_owner(request: gr.Request | None, what: str) -> None:
    """Raises AccessError unless an owner asks. `what` completes "… is for the owner of this page"."""
    if not visitor_of(request).owner:
        raise AccessError(f"{what} is for the owner of this page. Run your own copy to do it: the code is all there.")


@dataclass
class RateLimit:
    """At most `times` of something a visitor in `seconds`; the owner of a page is not counted."""

    what: str
    times: int
    seconds: float = 60.0
    _seen: dict[str, deque[float]] = field(default_factory=dict)

    def check(self, visitor: Visitor) -> None:
        """Counts one more. Raises AccessError that says how long to wait."""
        if visitor.owner:
            return
        now = time.monotonic()
        for name in [name for name, times in self._seen.items() if now - times[-1] > self.seconds]:
            del self._seen[name]
        times = self._seen.setdefault(visitor.id, deque(maxlen=self.times))
        if len(times) == self.times and (left := self.seconds - (now - times[0])) > 0:
            raise AccessError(
                f"You have sent {self.times} {self.what} within {self.seconds:.0f} s, the most that one visitor may. "
                f"Try again in {left:.0f} s."
            )
        times.append(now)


def claim(run: Run, visitor: Visitor, *, private: bool) -> None:
    """Notes who started a run; one with data of the visitor's own is `private`: no other visitor sees it."""
    write_text(run.path(_STARTED_BY), json.dumps({"visitor": visitor.id, "private": private}))


def started_by(run: Run) -> tuple[str | None, bool]:
    """Whose run it is, if a visitor's, and whether it is private."""
    path = run.path(_STARTED_BY)
    if not path.exists():
        return None, False
    noted = json.loads(path.read_text("utf-8"))
    return noted["visitor"], noted["private"]


def visible_runs(visitor: Visitor) -> list[Run]:
    """The runs that `visitor` may see, newest first."""
    return [run for run in list_runs() if visitor.owner or started_by(run)[0] == visitor.id or not started_by(run)[1]]


def may_see(visitor: Visitor) -> Callable[[Path], bool]:
    """Whether `visitor` may see a report, by its path: what was made of private data is for its owner."""

    def visible(report: Path) -> bool:
        starter, private = started_by(Run(report.parent))
        return visitor.owner or starter == visitor.id or not private

    return visible


def may_see_model(visitor: Visitor) -> Callable[[str], bool]:
    """Whether `visitor` may see a model's name among the votes: that of a private run is for its owner."""
    visible = may_see(visitor)
    return lambda model: visible(runs_folder() / model.removeprefix("run:").partition("/")[0] / "report.json")


def _login(request: gr.Request) -> str | None:
    """The Hugging Face name of who is logged in, from the signed session cookie that gr.LoginButton sets."""
    asked = getattr(request, "request", None)
    info = asked.scope.get("session", {}).get("oauth_info") if asked is not None else None
    if not info or (info.get("expires_at") or float("inf")) < time.time():
        return None
    return info["userinfo"].get("preferred_username")


def _owners() -> set[str]:
    named = os.environ.get("DISTILLER_OWNERS", "").split(",")
    author = os.environ.get("SPACE_AUTHOR_NAME") or os.environ.get("SPACE_ID", "").partition("/")[0]
    return {name.strip() for name in [*named, author] if name.strip()}


def _hash(text: str) -> str:
    return hashlib.sha256(f"{_salt()} {text}".encode()).hexdigest()[:16]


def _salt() -> str:
    """DISTILLER_SALT (a secret of the Space), else a random one that stays with the runs."""
    if given := os.environ.get("DISTILLER_SALT"):
        return given
    path = runs_folder() / ".salt"
    if not path.exists():
        drawn = path.with_name(f".salt.{secrets.token_hex(4)}")
        write_text(drawn, secrets.token_hex(16))
        with suppress(FileExistsError):  # of two at once the first one's stays
            os.link(drawn, path)
        drawn.unlink()
    return path.read_text("utf-8")
