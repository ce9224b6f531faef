"""The charts of a report, as plotly figures; the app shows the same ones."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any

from evals.columns import BY_KEY

COLOURS = {
    "teacher": "#7a5cc0",
    "student": "#0a8f6a",
    "baseline": "#9aa0a6",
    "reference_trained": "#d98a1f",
    "untouched": "#c0504d",
}
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star", "pentagon", "triangle-down")
_OTHER = ("#3b6fb6", "#b64a8f", "#5f8f3b", "#8a6d3b")


def colour(row: dict[str, Any], index: int) -> str:
    return COLOURS.get(row["role"] or "", _OTHER[index % len(_OTHER)])


def charts(report: dict[str, Any]) -> list[Any]:
    """Quality with intervals, quality against latency, against memory, by intent, by turn."""
    rows = report["rows"]
    quality = "accuracy" if report["accuracy_kind"] else "embedding_similarity"
    words = {"accuracy": "accuracy", "embedding_similarity": "embedding similarity"}[quality]
    figures = [_bars(rows, quality, words)]
    for key, title in (("latency_p50_s", "median seconds a reply"), ("weights_mb", "weights on disk, MB")):
        if sum(row[key] is not None for row in rows) > 1:
            figures.append(_against(rows, quality, words, key, title))
    figures.append(_heat_map(report, quality, words))
    figures.append(_by_turn(report, quality, words))
    return figures


def _figure(title: str, height: int = 380) -> Any:
    import plotly.graph_objects as go

    figure = go.Figure()
    figure.update_layout(
        title=title,
        height=height,
        template="plotly_white",
        margin={"l": 60, "r": 20, "t": 50, "b": 50},
        showlegend=False,
    )
    return figure


def _error(row: dict[str, Any], key: str) -> dict[str, Any]:
    low, high = row[f"{key}_ci"]
    return {"type": "data", "symmetric": False, "array": [high - row[key]], "arrayminus": [row[key] - low]}


def _name(row: dict[str, Any]) -> str:
    return row["role"] or row["model"]


def _bars(rows: list[dict[str, Any]], key: str, words: str) -> Any:
    figure = _figure(f"{words.capitalize()}, 95% intervals")
    for index, row in enumerate(rows):
        if row[key] is not None:
            figure.add_bar(x=[_name(row)], y=[row[key]], error_y=_error(row, key), marker_color=colour(row, index))
    figure.update_yaxes(range=[0, 1], title=words)
    return figure


def _against(rows: list[dict[str, Any]], key: str, words: str, x: str, title: str) -> Any:
    figure = _figure(f"{words.capitalize()} against {title}")
    for index, row in enumerate(rows):
        if row[key] is not None and row[x] is not None:
            figure.add_scatter(
                x=[row[x]],
                y=[row[key]],
                error_y=_error(row, key),
                mode="markers+text",
                text=[_name(row)],
                textposition="top center",
                marker={"size": 13, "color": colour(row, index)},
            )
    figure.update_xaxes(title=title, rangemode="tozero")
    figure.update_yaxes(title=words, range=[0, 1.05])
    return figure


def _heat_map(report: dict[str, Any], key: str, words: str) -> Any:
    import plotly.graph_objects as go

    names = [row["model"] for row in report["rows"]]
    intents = sorted({intent for name in names for intent in report["groups"][name]["intent"]})
    values = [[report["groups"][n]["intent"].get(i, {}).get(key) for i in intents] for n in names]
    figure = _figure(f"{words.capitalize()} by intent", height=140 + 42 * len(names))
    figure.add_trace(
        go.Heatmap(z=values, x=intents, y=[_name(row) for row in report["rows"]], zmin=0, zmax=1, colorscale="Viridis")
    )
    return figure


def _by_turn(report: dict[str, Any], key: str, words: str) -> Any:
    figure = _figure(f"{words.capitalize()} by turn of the conversation")
    for index, row in enumerate(report["rows"]):
        turns = report["groups"][row["model"]]["turn"]
        known = [(int(t), v[key]) for t, v in turns.items() if key in v]
        figure.add_scatter(
            x=[t for t, _ in known],
            y=[v for _, v in known],
            mode="lines+markers",
            name=_name(row),
            line={"color": colour(row, index)},
        )
    figure.update_layout(showlegend=True)
    figure.update_xaxes(title="turn", dtick=1)
    figure.update_yaxes(title=words, range=[0, 1.05])
    return figure


def of_leaderboard(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> list[Any]:
    """Quality with intervals, quality against the time of a reply, people's ratings; None for what nothing is known of.

    `names`: one a row. See-through, so that they stand on a light page and on a dark one; the page colours the text.
    """
    quality = "accuracy" if any(row["accuracy"] is not None for row in rows) else "embedding_similarity"
    words = {"accuracy": "Accuracy", "embedding_similarity": "Similarity"}[quality]
    return [
        _dots(rows, names, quality, f"{words}, with 95% intervals"),
        _trade_off(rows, names, quality, words),
        _dots(rows, names, "rating", "Rating by votes, with 95% intervals"),
    ]


def _dots(rows: Sequence[dict[str, Any]], names: Sequence[str], key: str, title: str) -> Any:
    """One line a model, the best on top: names of any length have room, on a phone too."""
    known = [
        (row, name, index) for index, (row, name) in enumerate(zip(rows, names, strict=True)) if row[key] is not None
    ]
    if not known:
        return None
    figure = _see_through(title, len(rows))
    for row, name, index in sorted(reversed(known), key=lambda each: each[0][key]):
        figure.add_scatter(
            x=[row[key]],
            y=["<br>".join(textwrap.wrap(name, 18))],
            error_x=_error(row, key) if row.get(f"{key}_ci") else None,
            mode="markers",
            marker={"size": 12, "color": colour(row, index)},
            hovertemplate=f"{name}: {BY_KEY[key].cell(row)}<extra></extra>",
        )
    figure.update_yaxes(automargin=True, showgrid=False)
    if key == "accuracy":
        figure.update_xaxes(rangemode="tozero", tickformat=".0%")
    return figure


def _trade_off(rows: Sequence[dict[str, Any]], names: Sequence[str], key: str, words: str) -> Any:
    """Up and to the left is better. Names stand in a legend: beside the points they would cover each other."""
    time = "latency_p50_s"
    if sum(row[key] is not None and row[time] is not None for row in rows) < 2:
        return None
    figure = _see_through(f"{words} against seconds a reply (median)", len(rows))
    for index, (row, name) in enumerate(zip(rows, names, strict=True)):
        if row[key] is None or row[time] is None:
            continue
        figure.add_scatter(
            x=[row[time]],
            y=[row[key]],
            error_y=_error(row, key) if row.get(f"{key}_ci") else None,
            mode="markers",
            name=name,
            marker={"size": 12, "color": colour(row, index), "symbol": _SYMBOLS[index % len(_SYMBOLS)]},
            hovertemplate=f"{name}: {BY_KEY[key].cell(row)}, {BY_KEY[time].cell(row)}<extra></extra>",
        )
    figure.update_xaxes(rangemode="tozero")
    figure.update_yaxes(rangemode="tozero", tickformat=".0%" if key == "accuracy" else ".2f")
    figure.update_layout(
        showlegend=True,
        legend={"orientation": "h", "entrywidth": 110, "x": 0, "y": 0, "yref": "container", "yanchor": "bottom"},
        margin={"b": 40 + 24 * math.ceil(len(rows) / 2)},
    )
    return figure


def _see_through(title: str, models: int) -> Any:
    figure = _figure(title, height=max(360, 120 + 36 * models))
    line = "rgba(128,128,128,.25)"
    figure.update_layout(
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13, "color": "#808080"},
        title={"font": {"size": 15}, "x": 0, "xref": "container", "pad": {"l": 4}},
        margin={"l": 10, "r": 16, "t": 48, "b": 44},
        dragmode=False,  # a finger scrolls the page
        hoverlabel={"bgcolor": "#333", "font": {"color": "#fff"}},
    )
    figure.update_xaxes(gridcolor=line, zerolinecolor=line, automargin=True, tickangle=0, nticks=6)
    figure.update_yaxes(gridcolor=line, zerolinecolor=line, automargin=True)
    return figure
