"""The votes database, opened: SQLite in a file or PostgreSQL by URL, its schema migrated to the newest.

Called by `votes` alone. Writers wait in line for each other (SQLite: one writer at a time; PostgreSQL: one at a
time for each key that is locked), so a check and the insert that rests on it see the same rows.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, ProgrammingError, TimeoutError
from sqlalchemy.orm import Session

from distiller.errors import VoteError
from distiller.runs import runs_folder

MIGRATIONS = Path(__file__).with_name("migrations")
BUSY_TIMEOUT_S = 30
_MIGRATION_LOCK = "migration"
#: Alembic keeps its context in a module: one thread at a time may migrate.
_migrating = threading.Lock()


def database_url(url: str | None = None) -> URL:
    """`url`, else DATABASE_URL, else a SQLite file in the runs folder. Raises VoteError for other databases."""
    given = url or os.environ.get("DATABASE_URL") or f"sqlite:///{runs_folder() / 'arena.sqlite'}"
    try:
        parsed = make_url(given)
    except ArgumentError:
        raise VoteError(
            "DATABASE_URL is not a URL. Write sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE."
        ) from None
    if parsed.drivername in {"postgres", "postgresql", "postgresql+psycopg"}:
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername == "sqlite" and parsed.database not in {None, "", ":memory:"}:
        return parsed
    raise VoteError(
        f"Votes cannot be kept in {parsed.render_as_string()}. Write sqlite:///FILE or "
        "postgresql://USER:PASSWORD@HOST/DATABASE."
    )


class Database:
    """Sessions that read or write. Safe for threads; other processes may have the same database open."""

    def __init__(self, url: URL) -> None:
        self._shown = url.set(query={}).render_as_string()  # without the password
        self._sqlite = url.get_backend_name() == "sqlite"
        with self._in_words():
            self.engine = _sqlite_engine(url) if self._sqlite else create_engine(url, pool_pre_ping=True)
            self._writer = self.engine.execution_options(writes=True)
            with self._writer.begin() as connection:
                self._lock(connection, _MIGRATION_LOCK)
                migrate(connection)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        with self._in_words(), Session(self.engine) as session:
            yield session

    @contextmanager
    def writing(self, *keys: str) -> Iterator[Session]:
        """One transaction, committed at the end. Others that name one of `keys` wait until then."""
        with self._in_words(), Session(self._writer, expire_on_commit=False) as session, session.begin():
            for key in sorted(keys):
                self._lock(session.connection(), key)
            yield session

    def close(self) -> None:
        self.engine.dispose()

    def _lock(self, connection: Connection, key: str) -> None:
        if not self._sqlite:  # SQLite's BEGIN IMMEDIATE already holds the one lock that there is
            number = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], signed=True)
            connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": number})

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except (DataError, IntegrityError, ProgrammingError):
            raise  # a bug of ours
        except (DBAPIError, sqlite3.Error, TimeoutError, OSError) as error:
            cause = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
            raise VoteError(
                f"The votes database {self._shown} cannot be used: {cause}. Try again; if it stays so, check DATABASE_URL."
            ) from error


def migrate(connection: Connection, revision: str = "head") -> None:
    """Within the caller's transaction: wholly or not at all."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    with _migrating:
        command.upgrade(config, revision)


def _sqlite_engine(url: URL) -> Engine:
    path = Path(str(url.database))
    path.parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S})

    @event.listens_for(engine, "connect")
    def connected(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # Python's own BEGIN comes too late: after the first read
        connection.execute("PRAGMA foreign_keys=ON")

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        # A writer that starts as a reader is refused when another one was faster; one that starts as a writer waits.
        writes = connection.get_execution_options().get("writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    with _file_lock(path), engine.connect() as connection:
        # Stays with the file. Changing it is the one thing that SQLite's busy timeout does not cover.
        connection.connection.driver_connection.execute("PRAGMA journal_mode=WAL")  # type: ignore[union-attr]
    return engine


@contextmanager
def _file_lock(database: Path) -> Iterator[None]:
    """One process at a time opens the file."""
    with database.with_name(f".{database.name}.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
