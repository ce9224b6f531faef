"""`python -m evals`: run · distill · load · report · compare · judge · leaderboard · ratings."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from distiller.cli import JobArgument, JsonOption, MapOption, QuietOption, SetOption, SkipBadOption, run_cli
from distiller.errors import DataError, DistillerError, VoteError
from evals.load_cli import load
from evals.options import QueueOption, RunOption, chosen_conversations

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

#: The columns of the leaderboard that fit a terminal.
SHOWN = (
    "rank", "accuracy", "retention", "rating", "votes", "bleu", "embedding_similarity", "latency_p50_s", "tokens_per_s",
    "weights_mb", "peak_memory_mb", "parameters", "cost_per_1k",
)  # fmt: skip
VOTES_SHOWN = ("rating", "votes")  # where there are any


@app.callback()
def _top() -> None:
    """Evaluate models on customer-support conversations."""


@app.command()
def run(
    run_name: RunOption = None,
    models: Annotated[str | None, typer.Option(help="Models by name, with commas: --models bundled:...,hf:...")] = None,
    data: Annotated[Path | None, typer.Option(help="Conversations to replay: JSONL, JSON or CSV.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the report and the predictions.")] = None,
    map_: MapOption = "",
    training: Annotated[
        Path | None, typer.Option(help="Conversations with intents, to judge by where the data has no facts.")
    ] = None,
    system_prompt: Annotated[str | None, typer.Option(help="What models of no run are told.")] = None,
    job: Annotated[
        Path | None, typer.Option(help="A job file: models of no run are told what it tells its student.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens a reply may have.")] = None,
    timed_turns: Annotated[int | None, typer.Option(min=1, help="Turns answered one at a time, for the times.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="Conversations to take, by equal shares of intents; 0 = all.")] = 0,
    free: Annotated[bool | None, typer.Option("--free", help="Also replay with the model's own replies.")] = None,
    skip_bad: SkipBadOption = False,
    quiet: QuietOption = False,
    queue: QueueOption = False,
) -> None:
    """Score a run (--run ID), or any models on any conversations (--models A,B --data F --out DIR)."""
    from evals.background import turn
    from evals.evaluate import evaluate_models, evaluate_run
    from evals.report import to_markdown

    if models is None:
        from distiller.runs import find_run

        found = find_run(run_name or "latest")
        with turn(found.folder, queue):
            path = evaluate_run(found, free_running=free, quiet=quiet)
    else:
        from distiller.chat import OpenOptions
        from distiller.job import Evaluation, load_job
        from distiller.schema import read_conversations
        from evals.contestants import by_name

        if data is None or out is None:
            raise DataError("--models needs --data FILE (what to replay) and --out DIR (where the report goes).")
        if job and system_prompt is not None:
            raise DataError("--job brings its own system prompt along: leave out --system-prompt.")
        told = load_job(job) if job else None
        conversations = chosen_conversations(data, map_, skip_bad, limit)
        given = {"max_tokens": max_tokens, "timed_turns": timed_turns, "free_running": free}
        settings = told.evaluation if told else Evaluation()
        with turn(out, queue):
            path = evaluate_models(
                [by_name(name.strip(), told) for name in models.split(",") if name.strip()],
                conversations,
                out,
                settings.model_copy(update={k: v for k, v in given.items() if v is not None}),
                OpenOptions(),
                system_prompt=system_prompt,
                training=read_conversations(training) if training else (),
                quiet=quiet,
            )
    if not quiet:
        typer.echo(_head(to_markdown(json.loads(path.read_text("utf-8")))))
    typer.echo(f"Report: {path.with_suffix('.html')} (also .md and .json)")


@app.command()
def distill(
    job: JobArgument,
    set_: SetOption = None,
    skip_bad: SkipBadOption = False,
    quiet: QuietOption = False,
    queue: QueueOption = False,
) -> None:
    """Run a job to its student, then score it: `distiller run` and `evals run` in one."""
    from distiller.job import load_job
    from evals.background import distill as run_and_score

    path = run_and_score(load_job(job, set_ or []), skip_bad=skip_bad, quiet=quiet, queue=queue)
    if path is not None:
        typer.echo(f"Report: {path.with_suffix('.html')} (also .md and .json)")


app.command()(load)


@app.command()
def report(run_name: RunOption = None, as_json: JsonOption = False) -> None:
    """Write the report of a run again from its stored JSON, and print it."""
    from evals.report import to_markdown, write_report

    path = _report_path(run_name)
    value = json.loads(path.read_text("utf-8"))
    write_report(value, path.parent)
    typer.echo(json.dumps(value, ensure_ascii=False) if as_json else to_markdown(value))


@app.command()
def compare(
    a: Annotated[str, typer.Argument(help="A model or role of the report, such as student.")],
    b: Annotated[str, typer.Argument(help="The other one, such as teacher.")],
    run_name: RunOption = None,
    as_json: JsonOption = False,
) -> None:
    """The paired tests between two models of a report."""
    from distiller.tables import print_table

    path = _report_path(run_name)
    value = json.loads(path.read_text("utf-8"))
    known = [name for row in value["rows"] for name in (row["model"], row["role"]) if name]
    for name in (a, b):
        if name not in known:
            raise DataError(f"{name!r} is not in the report; there are: {', '.join(known)}.")
    rows = []
    for pair in value["comparisons"]:
        names = [{pair["a"], pair["roles"][0]}, {pair["b"], pair["roles"][1]}]
        if a in names[0] and b in names[1]:
            sign = 1
        elif b in names[0] and a in names[1]:
            sign = -1
        else:
            continue
        low, high = sorted(sign * end for end in pair["ci"])
        rows.append(
            {
                "metric": pair["metric"],
                f"{a} - {b}": round(sign * pair["difference"], 4),
                "low": round(low, 4),
                "high": round(high, 4),
                "p": round(pair["p"], 4),
                "p_holm": round(pair["p_adjusted"], 4),
            }
        )
    print_table(rows, as_json=as_json, empty=f"{a} and {b} have no metric in common.")


@app.command()
def judge(
    judge: Annotated[str, typer.Option("--judge", help="The model that judges, by name, such as openai:MODEL@URL.")],
    run_name: RunOption = None,
    report: Annotated[Path | None, typer.Option(help="Folder of an evaluation, as run --out wrote it.")] = None,
    predictions: Annotated[
        tuple[Path, Path] | None, typer.Option(help="Two predictions files; with --data and --out.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="The conversations that --predictions answer.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the judge.json of --predictions.")] = None,
    pair: Annotated[
        tuple[str, str] | None,
        typer.Option(help="Two models or roles; by default student baseline, then student teacher."),
    ] = None,
    votes: Annotated[bool, typer.Option("--votes", help="Judge the battles people voted on: do they agree?")] = False,
    limit: Annotated[int, typer.Option(min=0, help="Conversations to take, or battles of --votes; 0 = all.")] = 0,
    job: Annotated[
        Path | None, typer.Option(help="A job file, for the policy lines the judge sees; a run has its own.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens a verdict may have, its reasons included.")
    ] = None,
    price: Annotated[
        tuple[float, float] | None, typer.Option(help="USD for a million tokens read, and written.")
    ] = None,
    key_variable: Annotated[str, typer.Option(help="Environment variable with the API's key.")] = "OPENAI_API_KEY",
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """A model judges two models' replies, in both orders (--run ID), or the battles people voted on (--votes)."""
    from distiller.chat import OpenOptions
    from distiller.job import TeacherPrice, load_job
    from distiller.runs import find_run
    from evals import judged, judging
    from evals.votes import VoteStore

    if sum(given is not None for given in (run_name, report, predictions)) > 1:
        raise DataError("--run, --report and --predictions name different replies: give one of them.")
    if pair and (predictions or (votes and not (report or run_name))):
        raise DataError("--pair chooses among the models of a report: give it with --run or --report.")
    if price and min(price) < 0:
        raise DataError(f"--price {price[0]:g} {price[1]:g}: prices are at least 0.")
    by = judging.Judge(
        judge,
        OpenOptions(key_variable=key_variable),
        max_tokens or judging.MAX_TOKENS,
        TeacherPrice(input_per_million=price[0], output_per_million=price[1]) if price else None,
    )
    told = load_job(job) if job else None
    found: dict[str, Any] = {"rows": [], "agreement": []}
    names: dict[str, str] = {}
    store = VoteStore()
    try:
        if predictions is not None:
            if data is None or out is None:
                raise DataError("--predictions needs --data FILE (what they answer) and --out DIR (for judge.json).")
            found = judging.judge_predictions(predictions, data, out, by, store, limit=limit, job=told, quiet=quiet)
        elif report is not None or run_name is not None or not votes:
            run = None if report else find_run(run_name or "latest")
            folder = report or run.folder  # type: ignore[union-attr]
            told = told or (run.job if run else None)
            found = judging.judge_report(folder, by, store, pair=pair, limit=limit, job=told, quiet=quiet)
            names = judged.names_of(json.loads((folder / "report.json").read_text("utf-8")))
            found["rows"] = [row for row in found["rows"] if row["judge"] == judge]
        if votes:
            found["agreement"] = [judging.judge_votes(by, store, limit=limit, job=told, quiet=quiet)]
    finally:
        store.close()
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False, indent=1))
        return
    for line in [*judged.sentences(found, names), *map(judged.cost_words, [*found["rows"], *found["agreement"]])]:
        typer.echo(line)


class Form(StrEnum):
    table = "table"
    csv = "csv"
    json = "json"
    html = "html"
    markdown = "markdown"


FormOption = typer.Option("--format", help="html is a page of its own, markdown is for a model card.")
OutOption = Annotated[Path | None, typer.Option(help="File to write, instead of printing.")]


@app.command()
def leaderboard(
    run_name: RunOption = None,
    as_json: JsonOption = False,
    form: Annotated[Form, FormOption] = Form.table,
    out: OutOption = None,
    intent: Annotated[str | None, typer.Option(help="Only turns, and votes, of this intent.")] = None,
    turn: Annotated[
        int | None, typer.Option(min=1, help="Only turns of this number, from 1, and votes after so many.")
    ] = None,
) -> None:
    """The table of a run's models, else of all models that were measured on the newest report's data, with the
    arena's votes on them (database: DATABASE_URL, else a file in runs/)."""
    from distiller.tables import print_table
    from evals.columns import BY_KEY
    from evals.labels import labels
    from evals.leaderboard import newest_board, with_votes
    from evals.leaderboard_export import FORMS, Table

    board = newest_board(run_name)
    rows = with_votes(board.rows(intent, turn) if board else [], _votes_rated(intent, turn))
    if run_name is not None:  # others were voted on, and are not of this run
        rows = [row for row in rows if row["role"] is not None]
    if form is not Form.table:
        _give(FORMS[form](Table(board, rows, intent, turn)), out, "Leaderboard")
        return
    _no_file_for_a_table(out)
    empty = "No report yet. Make one: python -m distiller run configs/quickstart.yaml && python -m evals run"
    if not as_json:
        shown = [BY_KEY[key] for key in SHOWN if key not in VOTES_SHOWN or any(row["votes"] for row in rows)]
        names = labels(rows)
        rows = [{"model": names[row["model"]]} | {column.title: column.cell(row) for column in shown} for row in rows]
    print_table(rows, as_json=as_json, empty=empty, title="Leaderboard: gold reference, reference history")
    for words in board.judge_words if board and not as_json else ():
        typer.echo(words)


def _votes_rated(intent: str | None, turn: int | None) -> list[dict[str, Any]]:
    """What was measured can be read without the votes' database, too."""
    from evals.live_ratings import LiveRatings
    from evals.votes import VoteStore

    try:
        store = VoteStore()
        rows = LiveRatings(store).rows(intent, turn)
        store.close()
    except VoteError as error:
        typer.echo(f"Without the votes: {error}", err=True)
        return []
    return rows


@app.command()
def ratings(
    form: Annotated[Form, FormOption] = Form.table,
    out: OutOption = None,
    intent: Annotated[str | None, typer.Option(help="Only the votes on examples of this intent.")] = None,
    by_intent: Annotated[bool, typer.Option("--by-intent", help="A board for each intent.")] = False,
    by_turns: Annotated[bool, typer.Option("--by-turns", help="A board for each number of turns seen.")] = False,
    leave_out_outliers: Annotated[
        bool, typer.Option("--leave-out-outliers", help="Without the visitors who vote unlike all others.")
    ] = False,
) -> None:
    """The leaderboard of the arena's votes: ratings with intervals (database: DATABASE_URL, else a file in runs/)."""
    from distiller.tables import print_table
    from evals.judged import agreement_words, read, votes_folder
    from evals.ratings_export import FORMS, PAIRS_TITLE, TITLE, ratings_of, shown_pairs, shown_rows
    from evals.votes import Only, VoteStore

    if by_intent and by_turns:
        raise DistillerError("--by-intent and --by-turns are two tables: ask for one after the other.")
    store = VoteStore()
    votes = store.votes_table(Only(intent=intent))
    store.close()
    by = "intent" if by_intent else "turns" if by_turns else None
    result = ratings_of(votes, by=by, leave_out_outliers=leave_out_outliers)
    if form is Form.table:
        _no_file_for_a_table(out)
        print_table(
            shown_rows(result),
            as_json=False,
            empty="No votes yet. They are cast in the arena: python app.py",
            title=TITLE,
        )
        if len(result.pairs):
            print_table(shown_pairs(result), as_json=False, empty="", title=PAIRS_TITLE)
        for note in result.notes if len(votes) else ():
            typer.echo(note)
        for row in read(votes_folder())["agreement"] if len(votes) else ():
            typer.echo(agreement_words(row))
        return
    _give(FORMS[form](result), out, "Ratings")


def _no_file_for_a_table(out: Path | None) -> None:
    if out is not None:
        raise DistillerError("--out needs --format csv, json, html or markdown.")


def _give(text: str, out: Path | None, what: str) -> None:
    """Writes to the file, or else prints."""
    from distiller.schema import write_text

    if out is None:
        typer.echo(text, nl=False)
    else:
        write_text(out, text)
        typer.echo(f"{what}: {out}")


def _report_path(run_name: str | None) -> Path:
    from evals.leaderboard import newest_report

    path = newest_report(run_name)
    if path is None:
        raise DistillerError("There is no report yet. Make one: python -m evals run --run latest")
    return path


def _head(markdown: str) -> str:
    return markdown.split("\n| column |", maxsplit=1)[0]


def main() -> None:
    run_cli(app)
