"""The report of a load test: tables and what they mean, as Markdown and as one HTML file. Every figure's definition
stands here."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from distiller.schema import write_text
from evals.columns import Column, plain
from evals.labels import labels
from evals.load_figures import MAX_OTHERS_SHARE, MIN_USERS_TO_CLUSTER, PERCENTILES


def _seconds(value: float) -> str:
    if math.isinf(value):
        return "∞"
    return f"{_in_seconds(value)} s" if value >= 0.9995 else f"{_in_milliseconds(value)} ms"


def _in_seconds(value: float) -> str:
    return "∞" if math.isinf(value) else f"{value:.2f}"


def _in_milliseconds(value: float) -> str:
    return "∞" if math.isinf(value) else f"{value * 1000:,.{0 if value >= 0.01 else 1}f}"


def _errors(value: dict[str, int]) -> str:
    return f"{sum(value.values()):,}"


#: One line of a level. A time's interval stands behind it.
COLUMNS: tuple[Column, ...] = (
    Column("users", "users", plain(0), "Customers at once, each of whom reads the reply and thinks before writing again."),
    Column("requests", "requests", plain(0), "Requests that were sent in the measured window."),
    Column("errors", "errors", _errors, "Those of them that failed: refused, broken off, or not answered in time."),
    Column("replies_per_s", "replies/s", plain(2),
        "Whole replies that ended in the window, a second. Users who wait send less, so it stops growing where the model "
        "has all that it can do."),
    Column("tokens_per_s", "tokens/s", plain(0), "Tokens of those replies, a second, over all users."),
    Column("ttft_p50_s", "TTFT p50", _seconds, "Time to first token: from sending to the first text, median."),
    Column("ttft_p95_s", "TTFT p95", _seconds,
        "Time to first token that 95% of the requests stay under; for a failed request without one it never came."),
    Column("tpot_p50_s", "TPOT p50", _seconds,
        "Time per output token after the first, median over requests: (end − TTFT) / (tokens − 1)."),
    Column("latency_p50_s", "reply p50", _seconds,
        "Time of a whole reply, median, the lookup of policy text included."),
    Column("latency_p95_s", "reply p95", _seconds,
        "Time of a whole reply that 95% of the requests stay under; a failed request counts as one that never ends.",
        _seconds),
    Column("good_replies_per_s", "goodput", plain(2), "Replies a second that kept every limit (below)."),
    Column("kept_limits", "within limits", plain(1, "%", 100), "Share of the requests that kept every limit."),
    Column("peak_memory_mb", "peak MB", plain(0), "Most memory that the model's process held during this level, in megabytes."),
    Column("cpu_s_per_reply", "CPU s/reply", plain(2), "Processor seconds a reply takes, summed over the cores."),
    Column("cost_per_1k", "$ per 1,000", plain(4),
        "US dollars for 1,000 replies: the price of a machine-hour over the replies an hour at this load."),
)  # fmt: skip

#: Of one core, that the users may take before their own work shows in the times.
MAX_CORE_SHARE = 0.3
TIMES = {"ttft": "time to first token", "tpot": "time per output token", "latency": "whole reply"}


def write_load_report(report: dict[str, Any], folder: Path) -> Path:
    """The JSON is written last: where it is, the other two are."""
    write_text(folder / "load.md", to_markdown(report))
    write_text(folder / "load.html", to_html(report))
    path = folder / "load.json"
    write_text(path, json.dumps(report, indent=1, ensure_ascii=False))
    return path


def used_columns(report: dict[str, Any]) -> list[Column]:
    rows = [level for model in report["models"] for level in model["levels"]]
    return [column for column in COLUMNS if any(_known(column, row) for row in rows)]


def _known(column: Column, row: dict[str, Any]) -> bool:
    return row.get(column.key) is not None or row.get(f"{column.key}_ci") is not None


def cell(column: Column, row: dict[str, Any]) -> str:
    """A percentile that is infinite, because too many requests failed, is shown as that."""
    bounds = row.get(f"{column.key}_ci")
    if bounds is None:
        return column.cell(row)
    value, low, high = (math.inf if each is None else each for each in (row[column.key], *bounds))
    if column.interval is None:
        return _seconds(value)
    number = _in_milliseconds if value < 0.9995 else _in_seconds
    return f"{_seconds(value)} ({number(low)}–{number(high)})"


def percentile_rows(report: dict[str, Any]) -> list[list[str]]:
    """Every percentile with its interval: model, users, which time, one cell a percentile."""
    names = labels(report["models"])
    columns = {key: [Column(f"{key}_p{q}_s", f"p{q}", _seconds, "", _seconds) for q in PERCENTILES] for key in TIMES}
    return [
        [names[model["model"]], str(level["users"]), words, *(cell(column, level) for column in columns[key])]
        for model in report["models"]
        for level in model["levels"]
        for key, words in TIMES.items()
    ]


def verdicts(report: dict[str, Any]) -> list[str]:
    """How many users each further model carries at the first one's p95. What was measured, then what is estimated."""
    found, names = report["equal_p95"], labels(report["models"])
    if found is None:
        return ["The first model failed with one user: there is no time that the others could be held to."]
    first, limit = names[found["first"]], found["limit_s"]
    interval = "–".join("∞" if bound is None else f"{bound:.2f}" for bound in found["limit_s_ci"])
    said = [f"With one user, {first} answers 95% of the requests within {limit:.2f} s (95% interval {interval})."]
    for model, each in found["carried"].items():
        if model == found["first"]:
            if each["users"] > 1:
                said.append(f"{first} keeps within that with {each['users']} users as well.")
            continue
        name, users, fails = names[model], each["users"], each["fails_at"]
        if not users:
            said.append(f"{name} does not keep within that with {_users(fails)}, the fewest measured.")
            continue
        words = f"Within that, {name} carries {_users(users)} at once, {_times(each['users_factor'])} {first}"
        if fails is None:
            said.append(f"{words}; it may carry more, which was not measured.")
        else:
            about = f", by interpolation about {each['estimate']:.1f}" if each["estimate"] else ""
            said.append(f"{words} (measured; {fails:,} are too many{about}).")
        if each["cost_cut"] is not None:
            at_first = found["carried"][found["first"]]
            said.append(
                f"At that load 1,000 replies of {name} cost ${each['cost_per_1k']:.4f}, {-each['cost_cut']:+.0%} against "
                f"{first}'s ${at_first['cost_per_1k']:.4f} with {_users(at_first['users'])}."
            )
    return said


def _times(factor: float) -> str:
    return "as many as" if factor == 1 else f"{factor:.3g} times as many as"


def _users(count: int) -> str:
    return f"{count:,} user{'s' * (count > 1)}"


def notes(report: dict[str, Any]) -> list[str]:
    settings, machine = report["settings"], report["machine"]
    limits = {"ttft_s": "TTFT", "tpot_s": "TPOT", "latency_s": "whole reply"}
    kept = [f"{limits[key]} at most {value:g} s" for key, value in report["limits"].items() if value is not None]
    levels = [level for model in report["models"] for level in model["levels"]]
    repeated = max((level["repeated"] for level in levels), default=0.0)
    fewest = min((level["requests"] for level in levels), default=0)
    followed = "model's own earlier replies" if settings["own_history"] else "reference replies to the earlier ones"
    result = [
        f"{settings['conversations']} conversations, walked by each user in an order of its own; {settings['think_s']:g} s "
        f"of thinking before each message but the first; at most {settings['max_tokens']} tokens a reply, greedy; a turn "
        f"follows the {followed}.",
        f"A level's window opens when every user has had a first reply, and lasts {settings['seconds']:g} s, or until "
        f"{settings['min_replies']} replies. All requests sent in it count, and are followed to their end under full load; "
        f"one without a whole reply after {settings['timeout_s']:g} s has failed.",
        "Each level is measured in a process of its own, which also holds the users: they are part of its memory and "
        "processor seconds. Of models served elsewhere neither is known.",
        f"Intervals are 95%, by bootstrap over users, with fewer than {MIN_USERS_TO_CLUSTER} users over conversations.",
        _users_cpu(levels),
        f"Cost: {report['price_per_hour']:g} USD a machine-hour.",
        f"Machine: {machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB.",
    ]
    disturbed = [
        f"{labels(report['models'])[model['model']]} with {_users(level['users'])} ({level['others_share']:.0%})"
        for model in report["models"]
        for level in model["levels"]
        if (level["others_share"] or 0.0) > MAX_OTHERS_SHARE
    ]
    if disturbed:
        result.append(
            f"Disturbed: other programs took more than {MAX_OTHERS_SHARE:.0%} of the machine while {', '.join(disturbed)} "
            "was measured. These times are not the model's own; --again-if-disturbed measures them again."
        )
    if kept:
        result.append(f"Limits of a good reply: {', '.join(kept)}.")
    if fewest < 100:
        result.append(f"A p99 of fewer than 100 requests (there are levels of {fewest}) lies among the slowest two.")
    if repeated > 0:
        result.append(
            f"Up to {repeated:.0%} of a level's requests are of conversations that another user, or the same one, had had "
            "before in it: a cache of prompts makes these faster than new ones. More conversations avoid it."
        )
    for model in report["models"]:
        for level in model["levels"]:
            for words, count in level["errors"].items():
                name = labels(report["models"])[model["model"]]
                result.append(f"{name}, {level['users']} users, {count} failed: {words}.")
    return result


def _users_cpu(levels: Sequence[dict[str, Any]]) -> str:
    """Whether the users, who in life are elsewhere, disturb what they measure."""
    core = max((level["users_core_share"] for level in levels), default=0.0)
    shares = [level["users_cpu_share"] for level in levels if level["users_cpu_share"] is not None]
    words = f"The users themselves kept one core busy for at most {core:.1%} of a window"
    if shares:
        words += f", and took at most {max(shares):.1%} of the processor seconds"
    return f"{words}: too much, their times are late. Use fewer users." if core > MAX_CORE_SHARE else f"{words}."


def to_markdown(report: dict[str, Any]) -> str:
    names, columns = labels(report["models"]), used_columns(report)
    lines = [f"# {report['title']}", "", report["created"], "", *(f"- {words}" for words in verdicts(report))]
    for model in report["models"]:
        lines += ["", f"## {names[model['model']]}", ""]
        lines += table([column.title for column in columns], [_cells(columns, level) for level in model["levels"]], 0)
    lines += ["", "## What it means", "", *(f"- {words}" for words in notes(report)), ""]
    lines += table(["column", "meaning"], [[column.title, column.meaning] for column in columns], 2)
    lines += ["", "## Percentiles, with 95% intervals", ""]
    lines += table(_percentile_titles(), percentile_rows(report), 3)
    return "\n".join(lines) + "\n"


def _percentile_titles() -> list[str]:
    return ["model", "users", "time", *(f"p{q}" for q in PERCENTILES)]


def _cells(columns: Sequence[Column], level: dict[str, Any]) -> list[str]:
    return [cell(column, level) for column in columns]


def table(titles: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """Lines of Markdown; the first `left` columns are words, the others numbers."""
    plain_cell: Callable[[str], str] = lambda text: text.replace("|", "\\|").replace("\n", " ")  # noqa: E731
    shown = [" | ".join(map(plain_cell, row)) for row in (titles, *rows)]
    rule = "|".join("---" if k < left else "---:" for k in range(len(titles)))
    return [f"| {shown[0]} |", f"|{rule}|", *(f"| {row} |" for row in shown[1:])]


def to_html(report: dict[str, Any]) -> str:
    from jinja2 import Environment, FileSystemLoader

    from evals.charts import load_charts

    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    plots = [
        figure.to_html(full_html=False, include_plotlyjs=index == 0, config={"displaylogo": False})
        for index, figure in enumerate(load_charts(report))
    ]
    return environment.get_template("load.html.jinja").render(
        report=report,
        names=labels(report["models"]),
        columns=used_columns(report),
        cell=cell,
        verdicts=verdicts(report),
        notes=notes(report),
        percentile_titles=_percentile_titles(),
        percentile_rows=percentile_rows(report),
        plots=plots,
    )
