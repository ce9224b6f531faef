"""`python -m evals load`."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from distiller.cli import MapOption, QuietOption, SkipBadOption
from distiller.errors import DataError, DistillerError
from evals.options import QueueOption, RunOption, chosen_conversations


class History(StrEnum):
    own = "own"
    reference = "reference"


def load(
    model: Annotated[
        list[str] | None,
        typer.Option("--model", help="A model by name (repeatable); the first is what the others are held to."),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Conversations to replay: JSONL, JSON or CSV.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the report and the requests.")] = Path("load"),
    users: Annotated[str, typer.Option(help="Users at once, with commas.")] = "1,2,4,8,16,32",
    find_users: Annotated[
        bool, typer.Option("--find-users", help="Search for the most users within the first model's p95 with one.")
    ] = False,
    most_users: Annotated[int, typer.Option(min=1, help="Where that search ends.")] = 256,
    run_name: RunOption = None,
    job: Annotated[
        Path | None,
        typer.Option(
            help="A job file: its teacher is told what it tells its teacher, others what it tells its student."
        ),
    ] = None,
    think: Annotated[float, typer.Option(min=0, help="Seconds a user thinks before the next message.")] = 2.0,
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of a level's measured window.")] = 60.0,
    min_replies: Annotated[
        int, typer.Option(min=1, help="A window stays open until so many came, at most ten times as long.")
    ] = 40,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens a reply may have.")] = None,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds after which a reply is given up, and failed.")
    ] = 120.0,
    ttft_limit: Annotated[
        float | None, typer.Option(min=0, help="Goodput: seconds to the first token of a good reply.")
    ] = None,
    tpot_limit: Annotated[float | None, typer.Option(min=0, help="Goodput: seconds a further token.")] = None,
    e2e_limit: Annotated[float | None, typer.Option(min=0, help="Goodput: seconds of the whole reply.")] = None,
    price_per_hour: Annotated[
        float | None, typer.Option(min=0, help="USD a machine-hour; without it models served elsewhere have no cost.")
    ] = None,
    history: Annotated[
        History, typer.Option(help="What a turn follows: the model's own earlier replies, or the references.")
    ] = History.own,
    limit: Annotated[int, typer.Option(min=0, help="Conversations to take, by equal shares of intents; 0 = all.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of the users' orders of conversations.")] = 0,
    resume: Annotated[bool, typer.Option(help="Go on with the test in --out; levels measured there are kept.")] = True,
    again_if_disturbed: Annotated[
        bool,
        typer.Option("--again-if-disturbed", help="Measure levels again in which other programs took over a tenth."),
    ] = False,
    map_: MapOption = "",
    skip_bad: SkipBadOption = False,
    quiet: QuietOption = False,
    queue: QueueOption = False,
) -> None:
    """Users at once: response times, throughput, errors, cost; and how many users a model carries."""
    from distiller.chat import OpenOptions
    from distiller.job import Evaluation, load_job
    from distiller.runs import find_run
    from evals.background import turn
    from evals.contestants import in_service
    from evals.load import Plan, load_test
    from evals.load_figures import Limits
    from evals.load_report import to_markdown
    from evals.load_users import LoadSettings

    if run_name and job:
        raise DistillerError("--run brings its own job along: leave out --job.")
    found = find_run(run_name) if run_name else None
    told = found.job if found else load_job(job) if job else None
    names = model or ([f"run:{found.id}/{role}" for role in ("teacher", "student")] if found else [])
    if found and not model:
        found.model_name("student")  # an unfinished run is refused now, not after the teacher's first level
    data = data or (found.path("data", "test.jsonl") if found else None)
    if not names or data is None:
        raise DataError(
            "A load test needs --model (repeatable) and --data FILE, or --run ID for a run's teacher and student."
        )
    parts = [part.strip() for part in users.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise DistillerError(f"--users {users!r}: expected whole numbers above 0 with commas, for example 1,2,4,8.")
    evaluation = told.evaluation if told else Evaluation()
    settings = LoadSettings(
        think, seconds, min_replies, max_new_tokens or evaluation.max_tokens, timeout, seed, history is History.own
    )
    plan = Plan(
        users=[int(part) for part in parts],
        find_users=find_users,
        most_users=most_users,
        again_if_disturbed=again_if_disturbed,
        limits=Limits(ttft_s=ttft_limit, tpot_s=tpot_limit, latency_s=e2e_limit),
        price_per_hour=price_per_hour,
        default_price=evaluation.machine_hour_usd,
    )
    options = OpenOptions(told.precision, told.max_batch, told.teacher_key_variable) if told else OpenOptions()
    conversations = chosen_conversations(data, map_, skip_bad, limit)
    contestants = [in_service(name, told) for name in dict.fromkeys(names)]
    with turn(out, queue):
        path = load_test(contestants, conversations, out, settings, plan, options, resume=resume, quiet=quiet)
    if not quiet:
        typer.echo(to_markdown(json.loads(path.read_text("utf-8"))).split("\n## What it means", maxsplit=1)[0])
    typer.echo(
        f"Report: {path.with_suffix('.html')} (also .md and .json); requests: {path.with_name('requests.jsonl')}"
    )
