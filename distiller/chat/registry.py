"""One grammar of model names, everywhere: job file, command line, UI.

bundled:NAME              a model that comes with the project
hf:REPO_OR_FOLDER         a Hub repository or a folder that transformers loads
gguf:FILE                 a GGUF file, through llama.cpp
openai:MODEL@BASE_URL     any server that speaks the OpenAI protocol
recorded:FILE.jsonl       stored completions
run:ID/CONTESTANT         a model of a run: student, baseline, teacher, untouched, reference_trained

On a CPU the models that come with the project and those of runs are served by llama.cpp, eight bits a weight: several
times as fast as transformers, which serves them on GPUs, where a precision is asked for, and where llama.cpp does not
know the architecture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from distiller.chat.base import ChatModel
from distiller.errors import ModelError

MODEL_NAME_HELP = (
    "bundled:NAME, hf:REPO_OR_FOLDER, gguf:FILE, openai:MODEL@BASE_URL, recorded:FILE.jsonl or run:ID/student"
)


@dataclass(frozen=True)
class OpenOptions:
    precision: str = "auto"
    max_batch: int = 32
    key_variable: str = "OPENAI_API_KEY"
    concurrency: int = 8


def open_model(name: str, options: OpenOptions | None = None) -> ChatModel:
    """Opens a model by its name. Raises ModelError that says what is wrong with the name or the model."""
    options = options or OpenOptions()
    scheme, _, rest = name.partition(":")
    if scheme not in OPENERS or not rest:
        raise ModelError(f"{name!r} is no model name. Expected {MODEL_NAME_HELP}.")
    return OPENERS[scheme](name, rest, options)


def local_source(name: str) -> str | None:
    """The folder or repository behind a local model's name, for training and cutting; None for an API's."""
    scheme, _, rest = name.partition(":")
    if scheme == "hf" and rest:
        return rest
    if scheme == "bundled":
        from distiller.chat.bundled import chat_model_folder

        return chat_model_folder(rest)
    if scheme == "run":
        from distiller.runs import resolve_model

        return local_source(resolve_model(rest))
    return None


def _open_bundled(name: str, rest: str, options: OpenOptions) -> ChatModel:
    from distiller.chat.bundled import chat_model_folder, exported_file, not_found_message, shipped_bytes
    from distiller.chat.gguf_local import GGUFModel, preferred

    file = exported_file(rest)
    if file is not None and options.precision == "auto" and preferred():
        return GGUFModel(name, file)
    source = chat_model_folder(rest)
    try:
        model = _open_made_here(name, source, options)
        if not isinstance(model, GGUFModel):
            model.weights_bytes = shipped_bytes(rest)  # not those of its unpacked copy in the cache
        return model
    except ModelError:
        if Path(source).is_dir():
            raise
        raise ModelError(not_found_message(rest)) from None


def _open_made_here(name: str, source: str, options: OpenOptions) -> ChatModel:
    """A model whose folder this project wrote, in the engine that serves it best."""
    from distiller.chat.gguf_local import GGUFModel, preferred

    if options.precision == "auto" and preferred() and Path(source).is_dir():
        from distiller.export.served import served_file

        file = served_file(Path(source))
        if file is not None:
            return GGUFModel(name, file)
    return _open_hf(name, source, options)


def _open_hf(name: str, rest: str, options: OpenOptions) -> ChatModel:
    from distiller.chat.transformers_local import TransformersModel

    return TransformersModel(name, rest, precision=options.precision, max_batch=options.max_batch)


def _open_gguf(name: str, rest: str, options: OpenOptions) -> ChatModel:
    from distiller.chat.gguf_local import GGUFModel

    return GGUFModel(name, Path(rest))


def _open_openai(name: str, rest: str, options: OpenOptions) -> ChatModel:
    from distiller.chat.openai_api import OpenAIModel

    model, _, base_url = rest.partition("@")
    if base_url and not base_url.startswith(("http://", "https://")):
        raise ModelError(f"{name!r}: the address after @ must begin with http:// or https://.")
    return OpenAIModel(
        name, model, base_url or None, key_variable=options.key_variable, concurrency=options.concurrency
    )


def _open_recorded(name: str, rest: str, options: OpenOptions) -> ChatModel:
    from distiller.chat.recorded import RecordedModel

    return RecordedModel(name, Path(rest))


def _open_run(name: str, rest: str, options: OpenOptions) -> ChatModel:
    from distiller.runs import resolve_model

    behind = resolve_model(rest)
    folder = behind.removeprefix("hf:")
    if folder != behind:
        return _open_made_here(name, folder, options)
    model = open_model(behind, options)
    model.name = name
    return model


OPENERS: dict[str, Callable[[str, str, OpenOptions], ChatModel]] = {
    "bundled": _open_bundled,
    "hf": _open_hf,
    "gguf": _open_gguf,
    "openai": _open_openai,
    "recorded": _open_recorded,
    "run": _open_run,
}
