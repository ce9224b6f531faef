"""A PostgreSQL server of one's own on loopback, from Debian's packages; gone afterwards. Tests and benchmarks use it."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

START_S = 60


def postgres_programs() -> Path | None:
    """The folder of initdb and postgres, the newest version's; Debian keeps them off the path."""
    versions = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    newest = max(versions, key=lambda path: int(path.parts[-3]), default=shutil.which("initdb"))
    return Path(newest).resolve().parent if newest else None


@contextmanager
def serve_postgres(programs: Path) -> Iterator[str]:
    """The URL of its empty database `postgres`. `new_database` makes more."""
    account = _account()
    with tempfile.TemporaryDirectory(prefix="postgres-") as name:
        folder = Path(name)
        password = secrets.token_hex(8)
        (folder / "password").write_text(password)
        if account:
            for path in (folder, folder / "password"):
                shutil.chown(path, account["user"], account["group"])
        data = folder / "data"
        command = [str(programs / "initdb"), "-D", str(data), "-U", "postgres", "--encoding=UTF8", "--no-locale"]
        command += ["--no-sync", "--auth=scram-sha-256", f"--pwfile={folder / 'password'}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder, **account)
        port = _free_port()
        command = [str(programs / "postgres"), "-D", str(data), "-p", str(port), "-h", "127.0.0.1", "-k", str(folder)]
        with (folder / "log").open("w") as log:
            server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, **account)
            try:
                url = f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres"
                _wait(url, server, folder / "log")
                yield url
            finally:
                server.send_signal(signal.SIGQUIT)  # at once: nothing of it is kept
                server.wait(timeout=START_S)


def new_database(server_url: str) -> str:
    """The URL of a new, empty database on the server."""
    import psycopg

    name = f"test_{secrets.token_hex(6)}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return server_url.rsplit("/", 1)[0] + f"/{name}"


def _account() -> dict[str, Any]:
    """PostgreSQL refuses to run as root."""
    if os.getuid() != 0:
        return {}
    names = {entry.pw_name for entry in pwd.getpwall()}
    user = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
    return {"user": user.pw_uid, "group": user.pw_gid}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    import psycopg

    until = time.monotonic() + START_S
    while True:
        try:
            psycopg.connect(url).close()
            return
        except psycopg.OperationalError:
            if server.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"PostgreSQL did not start:\n{log.read_text('utf-8')}") from None
            time.sleep(0.05)
