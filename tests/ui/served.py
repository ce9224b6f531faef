"""The app as a process of its own on loopback. Tests and benchmarks use it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from tests.conftest import PROJECT

START_S = 180  # two cores, and other work beside this
UNWANTED = ("OPENAI_API_KEY", "SPACE_ID", "DISTILLER_PUBLIC", "GRADIO_SERVER_NAME", "AUTORUN", "DATABASE_URL")


def start(folder: Path, *command: str, **environment: str) -> tuple[subprocess.Popen[bytes], str]:
    """`python COMMAND`, with its runs in `folder`/runs and its words in `folder`/log; its address, once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    kept = {name: value for name, value in os.environ.items() if name not in UNWANTED}
    own = {
        "DISTILLER_RUNS": str(folder / "runs"),
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "PYTHONPATH": str(PROJECT),
        "HF_HUB_OFFLINE": "1",
    }
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log"
    with log.open("w") as file:
        server = subprocess.Popen(
            [sys.executable, *command], cwd=PROJECT, stdout=file, stderr=subprocess.STDOUT, env=kept | own | environment
        )
    address = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return server, address
        except OSError:
            time.sleep(0.1)
    server.kill()
    raise RuntimeError(f"the app did not start:\n{log.read_text()}")
