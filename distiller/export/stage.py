"""The export as a stage: written once, verified, recorded; the same command again does only what is missing.

    export/  NAME-QUANT.gguf …  Modelfile  README.md  hub/  manifest.json

Of a run, what was exported is part of the run's own manifest too.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distiller.chat.transformers_local import source_identity
from distiller.errors import ExportError
from distiller.export.gguf_file import Precision, write_gguf
from distiller.export.gguf_tokenizer import ends_of_reply
from distiller.export.manifest import MANIFEST, entries, record
from distiller.export.source import Source
from distiller.progress import Progress
from distiller.runs import file_hash, now, versions
from distiller.schema import write_text
from distiller.work import locked

#: Raised when what the writer writes changes: files of an older one are written again.
WRITER_VERSION = 1


def export(
    source: Source,
    form: str,
    out: Path,
    *,
    quant: str = "q8_0",
    verify: bool = True,
    licence: str = "",
    repository: str = "",
    quiet: bool = False,
) -> dict[str, Any]:
    """Brings the export to its end and gives its entry of the manifest.

    Raises ExportError for a form, architecture or tokenizer that cannot be written, and where the file turns out not to
    say what the original says; it is kept for inspection then.
    """
    if form not in FORMS:
        raise ExportError(f"--format {form}: choose one of {', '.join(FORMS)}. {_REFUSED.get(form, '')}".strip())
    run = source.run
    progress = Progress(run.path("events.jsonl") if run else None, quiet=quiet)
    with locked(run.folder if run else out), progress.work():
        progress.event("stage", stage="export")
        name, entry = FORMS[form](source, out, progress, quant, verify, licence or source.licence, repository)
        progress.event("stage_done", stage="export", file=name)
        _record_in_run(source, name, entry)
    if entry.get("verification") and not entry["verification"]["faithful"]:
        reasons = "; ".join(entry["verification"]["reasons"])
        raise ExportError(
            f"{out / name} is NOT faithful to {source.folder}: {reasons}. Do not use it; {out / MANIFEST} has the "
            "figures. Please report the model's architecture and tokenizer."
        )
    return entry


def _gguf(
    source: Source, out: Path, progress: Progress, quant: str, verify: bool, licence: str, repository: str
) -> tuple[str, dict[str, Any]]:
    precision = Precision.of(quant, trained_for=source.trained_for)
    name = f"{source.name}-{quant}.gguf"
    file = out / name
    made_of = {
        "model": source_identity(str(source.folder)),
        "quant": quant,
        "embedding_quant": precision.embedding,
        "licence": licence,
        "writer": WRITER_VERSION,
    }
    entry = entries(out).get(name, {})
    if entry.get("made_of") != made_of or not file.exists() or file_hash(file) != entry["sha256"]:
        progress.say(f"Writing {file}")
        groups = write_gguf(source.folder, file, precision, name=source.name, licence=licence)
        entry = {
            "format": "gguf",
            "made": now(),
            "made_of": made_of,
            "bytes": file.stat().st_size,
            "bytes_by_group": groups,
            "sha256": file_hash(file),
            "versions": versions(),
        }
        record(out, source, name, entry)
    else:
        progress.say(f"{file} is there already.")
    if verify and not entry.get("verification"):
        progress.say("Comparing it with the original, in llama.cpp")
        from distiller.export.verify import verify as compare

        entry["verification"] = compare(file, source.folder, precision, source.requests())
        record(out, source, name, entry)
    if entry.get("verification"):
        for line in in_words(entry["verification"], precision, trained_for=source.trained_for):
            progress.say(line)
    _write_beside(source, out, name)
    return name, entry


def _hub(
    source: Source, out: Path, progress: Progress, quant: str, verify: bool, licence: str, repository: str
) -> tuple[str, dict[str, Any]]:
    from distiller.export.hub import write_hub_folder

    progress.say(f"Writing {out / 'hub'}")
    sizes = write_hub_folder(source, out / "hub", repository, licence)
    entry = {
        "format": "hub",
        "made": now(),
        "made_of": {"model": source_identity(str(source.folder)), "licence": licence},
        "bytes": sum(sizes.values()),
        "files": sizes,
    }
    record(out, source, "hub", entry)
    return "hub", entry


Form = Callable[[Source, Path, Progress, str, bool, str, str], tuple[str, dict[str, Any]]]
FORMS: dict[str, Form] = {"gguf": _gguf, "hub": _hub}
_REFUSED = {
    "openvino": "OpenVINO's converter (optimum-intel) needs older versions of transformers, huggingface_hub and typer than this "
    "project; openvino-genai reads the GGUF file itself: openvino_genai.LLMPipeline('FILE.gguf', 'CPU').",
    "onnx": "The converter (optimum) needs older versions of transformers and huggingface_hub than this project; export the Hub "
    "folder with --format hub and convert it in an environment of its own: optimum-cli export onnx.",
}


def in_words(verification: dict[str, Any], precision: Precision, *, trained_for: str | None = None) -> list[str]:
    """What the comparison found, for a person."""
    same, original = verification["against_the_same_rounded_weights"], verification["against_the_original"]
    verdict = "faithful" if verification["faithful"] else "NOT faithful: " + "; ".join(verification["reasons"])
    lines = [
        f"{verdict[0].upper()}{verdict[1:]}. llama.cpp against transformers, the same weights: {same['kl_mean']:.2g} nats apart over "
        f"{same['positions']} tokens, {same['same_likeliest_token']:.0%} with the same likeliest one; "
        f"{verification['tokenizer']['texts']} texts cut alike."
    ]
    if precision.matrices == trained_for:
        lines.append(f"It was trained with its weights rounded to {trained_for}: the file is what was trained.")
        return lines
    if precision.matrices != "f16":
        lines.append(
            f"Rounded to {precision.matrices} it is {original['kl_mean']:.2g} nats from the original, "
            f"{original['same_likeliest_token']:.0%} with the same likeliest token, {original['replies_equal']:.0%} of "
            f"{verification['prompts']} replies equal to the last letter."
        )
    if original["kl_mean"] > 0.05:
        lines.append(
            "[yellow]Rounding changes what this model says.[/yellow] Evaluate the file itself (python -m evals run --models "
            "gguf:FILE,…), take more bits, or train for these: hyperparameters.quantization."
        )
    return lines


def _write_beside(source: Source, out: Path, name: str) -> None:
    """The Modelfile of the file exported last, and how all of them are used."""
    from transformers import AutoTokenizer

    from distiller.export.ollama import modelfile

    tokenizer: Any = AutoTokenizer.from_pretrained(source.folder)
    write_text(out / "Modelfile", modelfile(name, tokenizer, _stops(source.folder, tokenizer), source.system_prompt))
    model = source.name.lower()
    rows = [
        f"| `{file}` | {entry['bytes'] / 1e6:,.1f} MB | {_verdict(entry)} |"
        for file, entry in sorted(entries(out).items())
        if entry["format"] == "gguf"
    ]
    told = f"\nIts system prompt:\n\n> {source.system_prompt}\n" if source.system_prompt else ""
    told += "".join(f"\n{sentence}\n" for sentence in source.advice)
    text = f"""# {source.name}

| file | size | compared with the original in llama.cpp |
|---|---:|---|
{chr(10).join(rows)}

The files hold the weights, the tokenizer and the chat template. `manifest.json` has hashes and figures.

```
ollama create {model} -f Modelfile && ollama run {model}      # the Modelfile is for {name}
llama-server --model {name}                                   # llama.cpp: an OpenAI-protocol server and a page
python -m evals run --models gguf:{name} --data test.jsonl    # here
```
{told}"""
    write_text(out / "README.md", text)


def _verdict(entry: dict[str, Any]) -> str:
    found = entry.get("verification")
    if not found:
        return "not compared"
    if not found["faithful"]:
        return "NOT faithful: " + "; ".join(found["reasons"])
    return f"faithful; {found['against_the_original']['replies_equal']:.0%} of replies equal"


def _stops(folder: Path, tokenizer: Any) -> list[str]:
    """Texts of the tokens that end a reply."""
    ids = [*ends_of_reply(folder), tokenizer.eos_token_id]
    return list(dict.fromkeys(tokenizer.convert_ids_to_tokens(i) for i in ids if i is not None))


def _record_in_run(source: Source, name: str, entry: dict[str, Any]) -> None:
    """In the run's state, and in its manifest where there is one; that is written last and only by finished runs."""
    run = source.run
    if run is None:
        return
    found = entry.get("verification")
    kept: dict[str, Any] = {key: entry[key] for key in ("format", "made", "bytes", "sha256") if key in entry}
    kept |= {"contestant": source.contestant, "faithful": found["faithful"] if found else None}
    files = run.state.get("export", {}).get("files", {}) | {name: kept}
    run.finish_stage("export", files=files)
    manifest = run.manifest
    if manifest is not None:
        manifest["exports"] = files
        write_text(run.path("manifest.json"), json.dumps(manifest, indent=2, ensure_ascii=False))
