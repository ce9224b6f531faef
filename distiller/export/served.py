"""The file from which a local model is served on a CPU: eight bits a weight, made once and kept.

Eight bits keep a model's replies (docs/engine.md has the figures); four bits change them, so a file of four is only
ever made on request, by `python -m distiller export`.
"""

from __future__ import annotations

from pathlib import Path

from distiller.chat.bundled import cache_folder
from distiller.chat.transformers_local import source_identity
from distiller.errors import ExportError
from distiller.export.gguf_file import write_gguf

QUANT = "q8_0"


def served_file(folder: Path) -> Path | None:
    """The GGUF file of the model in `folder`, by its content; None where llama.cpp does not know its architecture."""
    target = cache_folder() / "gguf" / f"{source_identity(str(folder))}-{QUANT}.gguf"
    if not target.exists():
        try:
            write_gguf(folder, target, QUANT, name=folder.name)
        except ExportError:
            return None
    return target
