"""The file from which a local model is served on a CPU, made once and kept: eight bits a weight, or what its weights
were rounded to in training.

Eight bits keep a model's replies (docs/engine.md has the figures); four bits change those of a model that was not trained
for them, so such a file is only ever made on request, by `python -m distiller export`.
"""

from __future__ import annotations

from pathlib import Path

from distiller.chat.bundled import cache_folder
from distiller.chat.transformers_local import source_identity
from distiller.errors import ExportError
from distiller.export.gguf_file import rounded_to, write_gguf

QUANT = "q8_0"


def served_file(folder: Path) -> Path | None:
    """The GGUF file of the model in `folder`, by its content; None where llama.cpp does not know its architecture."""
    quant = rounded_to(folder) or QUANT
    target = cache_folder() / "gguf" / f"{source_identity(str(folder))}-{quant}.gguf"
    if not target.exists():
        try:
            write_gguf(folder, target, quant, name=folder.name)
        except ExportError:
            return None
    return target
