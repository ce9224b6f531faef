"""A model as a server that speaks the OpenAI protocol, for any client: llama.cpp's own, as the page uses it."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

from distiller.chat.bundled import exported_file
from distiller.errors import ExportError, ModelError, RunError
from distiller.export.manifest import told_in
from distiller.export.served import served_file
from distiller.export.source import advice_of, find_source

#: Where it is set, clients have to send its value as their key.
KEY_VARIABLE = "DISTILLER_SERVE_KEY"


@dataclass(frozen=True)
class Servable:
    """`alias` is what clients call the model, `advice` what they have to know, a sentence each."""

    alias: str
    file: Path
    advice: list[str]
    system_prompt: str = ""


def servable(text: str) -> Servable:
    """A run (its student), `RUN/teacher`, a folder, `bundled:NAME`, or an exported file: `gguf:FILE`.

    Raises RunError and ModelError where there is none, ExportError where llama.cpp does not know its architecture.
    """
    scheme, _, rest = text.partition(":")
    file = Path(rest) if scheme == "gguf" else exported_file(rest) if scheme == "bundled" else None
    if file is not None:
        if not file.is_file():
            raise ModelError(f"{text}: there is no file {file}. Export a run: python -m distiller export RUN")
        told = told_in(file.parent)
        prompt = told[1].system_prompt if told else ""
        return Servable(rest if scheme == "bundled" else file.stem, file, advice_of(*told) if told else [], prompt)
    source = find_source(text)
    file = served_file(source.folder)
    if file is None:
        raise ExportError(
            f"{source.name}: llama.cpp does not know its architecture. transformers serves it, more slowly on a CPU: "
            f"pip install 'transformers[serving]' && transformers serve {source.folder}"
        )
    return Servable(source.name, file, source.advice, source.system_prompt)


def check_address(host: str, port: int) -> None:
    """Raises RunError where nothing can listen there: llama.cpp does not say why."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise RunError(
            f"Nothing can listen at {host}:{port} ({error.strerror or error}). Choose another --port (0: one that is free) "
            "or --host."
        ) from None


def key() -> str:
    return os.environ.get(KEY_VARIABLE, "")
