"""`python -m distiller`: run · generate · curate · train · adapt · embed · export · serve · split · describe · jobs."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from distiller.errors import DistillerError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

JobArgument = Annotated[Path, typer.Argument(help="Job file, YAML. Those that ship are in configs/.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Another value for a field: --set hyperparameters.num_epochs=2 (repeatable)."),
]
MapOption = Annotated[
    str,
    typer.Option("--map", help="Columns of a CSV, or keys: user=instruction,assistant=response,intent=intent."),
]
SkipBadOption = Annotated[bool, typer.Option("--skip-bad", help="Leave bad lines out (quarantine.jsonl) and go on.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]


@app.callback()
def _top() -> None:
    """Distil a large chat model into a small one for customer support."""


#: Commands that bring a job to the end of a stage (None: of the run), and what they say of themselves.
_STAGE_COMMANDS: dict[str, tuple[str | None, str]] = {
    "run": (None, "Run a job from conversations to the trained student. The same job again goes on where it stopped."),
    "generate": ("generate", "Stage 1: the teacher answers the conversations."),
    "curate": ("curate", "Stage 1: keep the teacher's replies that are worth learning."),
    "train": ("train", "Stage 2: build the student and train it."),
}


def _stage_command(until: str | None) -> Callable[..., None]:
    def command(
        job: JobArgument,
        set_: SetOption = None,
        map_: MapOption = "",
        skip_bad: SkipBadOption = False,
        quiet: QuietOption = False,
        as_json: JsonOption = False,
    ) -> None:
        _stages(job, set_, map_, skip_bad, quiet, as_json, until)

    return command


for _name, (_until, _help) in _STAGE_COMMANDS.items():
    app.command(_name, help=_help)(_stage_command(_until))


@app.command()
def adapt(
    job: JobArgument,
    out: Annotated[Path, typer.Option(help="Folder for the adapters and their manifest.")],
    ranks: Annotated[
        str | None, typer.Option(help="Ranks to try instead of the job's, with commas; the validation loss chooses.")
    ] = None,
    set_: SetOption = None,
    quiet: QuietOption = False,
) -> None:
    """Adapt a local teacher to a domain by its references, as low-rank adapters that can be shipped."""
    from distiller.adapt import adapt as adapt_teacher
    from distiller.errors import JobError
    from distiller.job import load_job

    parts = [part.strip() for part in ranks.split(",")] if ranks is not None else []
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise JobError(f"--ranks {ranks!r}: expected whole numbers above 0 with commas, for example 8,16.")
    manifest = adapt_teacher(load_job(job, set_ or []), out, [int(part) for part in parts], quiet=quiet)
    typer.echo(f"{out}: rank {manifest['rank']}, {manifest['bytes'] / 1e6:.1f} MB, sha256 {manifest['sha256'][:12]}…")


@app.command()
def embed(
    job: JobArgument,
    out: Annotated[Path, typer.Option(help="Folder; in models/vectors they are found by a fresh machine.")],
    set_: SetOption = None,
) -> None:
    """Embed a job's policy lines and answered questions ahead, so that no first reply waits for it."""
    from distiller.embedding import load_retrieval_encoder
    from distiller.errors import JobError
    from distiller.job import load_job
    from distiller.retrieval import write_vectors
    from distiller.schema import read_conversations

    found = load_job(job, set_ or []).retrieval
    if found.policies is None:
        raise JobError(f"{job}: looks nothing up (retrieval.policies is not set), so there is nothing to embed.")
    answered = read_conversations(found.questions) if found.questions else []
    files = write_vectors(found.policies, answered, load_retrieval_encoder(), out)
    typer.echo(f"{out}: {len(files)} files, {sum(file.stat().st_size for file in files) / 1e6:.1f} MB")


@app.command()
def export(
    source: Annotated[
        str,
        typer.Argument(help="A run (RUN or RUN/teacher), a folder that transformers loads, or bundled:NAME, hf:REPO."),
    ],
    form: Annotated[str, typer.Option("--format", help="gguf (llama.cpp, Ollama, LM Studio) or hub.")] = "gguf",
    quant: Annotated[str, typer.Option(help="Of a GGUF file: q8_0, q4_0 or f16.")] = "q8_0",
    out: Annotated[
        Path | None, typer.Option(help="Folder; without it, export/ in the folder of the run or model.")
    ] = None,
    verify: Annotated[bool, typer.Option(help="Compare a GGUF file with the original, in llama.cpp.")] = True,
    licence: Annotated[str, typer.Option(help="Of the weights, such as apache-2.0, where it is not known.")] = "",
    push_to: Annotated[
        str | None,
        typer.Option("--push", metavar="OWNER/NAME", help="Send a hub folder there (a dry run without token)."),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="A new repository is yours alone to see.")] = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a trained model as one GGUF file or as a Hub folder, and compare it with the original."""
    from distiller.export.source import find_source
    from distiller.export.stage import export as run_export
    from distiller.tables import print_table

    if push_to is not None and (form != "hub" or not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", push_to)):
        raise typer.BadParameter(f"--push {push_to!r}: expected OWNER/NAME, with --format hub.")
    found = find_source(source)
    if out is None and found.run is None and not Path(source).is_dir():
        raise typer.BadParameter(f"--out is needed: {source} has no folder of its own to write to.")
    target = out or (found.run.folder if found.run else Path(source)) / "export"
    entry = run_export(
        found,
        form,
        target,
        quant=quant,
        verify=verify,
        licence=licence,
        repository=push_to or "",
        quiet=quiet or as_json,
    )
    sizes = entry.get("bytes_by_group") or entry["files"]
    if as_json:
        typer.echo(json.dumps({"folder": str(target), **entry}, ensure_ascii=False))
    else:
        rows: list[dict[str, Any]] = [{"what": what, "bytes": f"{size:,}"} for what, size in sizes.items()]
        print_table([*rows, {"what": "together", "bytes": f"{entry['bytes']:,}"}], as_json=False, empty="")
        typer.echo(f"In {target}")
    if push_to is not None:
        from distiller.export.hub import push

        typer.echo(push(target / "hub", push_to, private=private), err=as_json)


@app.command()
def serve(
    model: Annotated[
        str, typer.Argument(help="A run (its student), RUN/teacher, a folder, bundled:NAME or gguf:FILE.")
    ],
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: one that is free.")] = 8080,
    host: Annotated[
        str, typer.Option(help="0.0.0.0: for other machines too; set DISTILLER_SERVE_KEY then.")
    ] = "127.0.0.1",
) -> None:
    """Serve a model by the OpenAI protocol, for any client. Ctrl-C ends it."""
    import signal
    import threading

    from distiller.chat.gguf_local import start_server
    from distiller.export.serve import KEY_VARIABLE, check_address, key, servable

    found = servable(model)
    check_address(host, port)
    server: Any = start_server(found.alias, found.file, host=host, port=port, alias=found.alias, key=key())
    address = f"{server.listening_address}/v1"
    typer.echo(f"{found.alias} ({found.file}) answers at {address}")
    for sentence in found.advice:
        typer.echo(sentence)
    if found.system_prompt:
        typer.echo(f"System prompt: {found.system_prompt}")
    if host not in {"127.0.0.1", "localhost", "::1"} and not key():
        typer.echo(f"Anyone who reaches this machine can use it: set {KEY_VARIABLE} to a key of yours.", err=True)
    sys.stdout.flush()
    ended = threading.Event()
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, lambda *_: ended.set())
    ended.wait()
    del server
    typer.echo("Ended.")


@app.command()
def split(
    source: Annotated[Path, typer.Argument(help="JSONL, JSON or CSV file of conversations.")],
    out: Annotated[Path, typer.Option(help="Folder for train.jsonl, validation.jsonl and test.jsonl.")],
    train_: Annotated[int, typer.Option("--train", min=1, help="Conversations for training.")],
    validation: Annotated[int, typer.Option(min=1, help="Conversations for validation.")],
    test: Annotated[int, typer.Option(min=1, help="Conversations for the test.")],
    map_: MapOption = "",
    seed: Annotated[int, typer.Option(min=0, help="Of the choice.")] = 0,
    skip_bad: SkipBadOption = False,
) -> None:
    """Split one file into training, validation and test conversations, in equal shares of its intents."""
    from distiller.forms import parse_column_map
    from distiller.sampling import split as split_conversations
    from distiller.schema import BadLine, read_conversations, write_jsonl

    bad: list[BadLine] | None = [] if skip_bad else None
    found = read_conversations(source, column_map=parse_column_map(map_), bad=bad)
    parts = split_conversations(found, {"train": train_, "validation": validation, "test": test}, seed)
    for name, conversations in parts.items():
        write_jsonl(out / f"{name}.jsonl", conversations)
        typer.echo(f"{out / name}.jsonl: {len(conversations)} conversations")
    if bad:
        write_jsonl(out / "quarantine.jsonl", [{"line": b.line, "reason": b.reason, "text": b.text} for b in bad])
        typer.echo(f"{out / 'quarantine.jsonl'}: {len(bad)} bad lines")


@app.command()
def describe(
    files: Annotated[list[Path], typer.Argument(help="JSONL, JSON or CSV files of conversations.")],
    map_: MapOption = "",
    as_json: JsonOption = False,
) -> None:
    """Size, lengths and variety of conversations, file by file."""
    from distiller.describe import describe as figures_of
    from distiller.forms import parse_column_map
    from distiller.schema import read_conversations
    from distiller.tables import print_table

    columns = {str(path): figures_of(read_conversations(path, column_map=parse_column_map(map_))) for path in files}
    keys = list(next(iter(columns.values())))
    rows = [{"": key.replace("_", " ")} | {file: figures[key] for file, figures in columns.items()} for key in keys]
    as_records = [{"file": file} | figures for file, figures in columns.items()]
    print_table(as_records if as_json else rows, as_json=as_json, empty="No conversations.")


@app.command()
def jobs(
    fields: Annotated[bool, typer.Option("--fields", help="Explain every field of a job file instead.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List the runs: state, stage, result."""
    from distiller.jobs import job_rows
    from distiller.tables import print_table

    if fields:
        from distiller.job import field_table

        rows = [dict(zip(("field", "type", "default", "meaning"), row, strict=True)) for row in field_table()]
    else:
        rows = job_rows()
    print_table(rows, as_json=as_json, empty="No runs yet. Start one: python -m distiller run configs/quickstart.yaml")


def _stages(
    path: Path,
    overrides: list[str] | None,
    map_: str,
    skip_bad: bool,
    quiet: bool,
    as_json: bool,
    until: str | None,
) -> None:
    from distiller.forms import parse_column_map
    from distiller.job import load_job
    from distiller.pipeline import run_job

    values = list(overrides or [])
    values += [f"column_map.{target}={column}" for target, column in parse_column_map(map_).items()]
    result = run_job(load_job(path, values), skip_bad=skip_bad, quiet=quiet or as_json, until=until)
    if as_json:
        typer.echo(json.dumps({"run": result.id, "folder": str(result.folder), "stages": result.state}))


def run_cli(cli: Callable[[], Any]) -> None:
    """Runs a command line: our errors become words and an exit code, an interrupt a clean stop."""
    try:
        cli()
    except DistillerError as error:
        print(f"Error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        print("Stopped. Start the same command again to go on.", file=sys.stderr)
        raise SystemExit(130) from None


def main() -> None:
    run_cli(app)
