"""Requests as Gradio hands them to an event, without a server."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, cast

import gradio as gr


def request(address: str = "10.0.0.1", login: str | None = None, expires: float | None = None) -> gr.Request:
    """Of a visitor at `address`, logged in as `login` until `expires` (seconds since 1970)."""
    info = {"userinfo": {"preferred_username": login}, "expires_at": expires or time.time() + 60} if login else None
    scope = {"session": {"oauth_info": info} if info else {}}
    asked = SimpleNamespace(scope=scope)
    return cast(Any, SimpleNamespace(client=SimpleNamespace(host=address), request=asked, query_params={}))
