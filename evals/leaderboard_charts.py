"""The charts of the leaderboard, as plotly figures that stand on a light page and on a dark one."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from evals.charts import COLOURS, error_bars
from evals.columns import BY_KEY

_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star", "pentagon", "triangle-down")
_OTHER = ("#3b6fb6", "#b64a8f", "#5f8f3b", "#8a6d3b")


def _colour(row: dict[str, Any], index: int) -> str:
    return COLOURS.get(row["role"] or "", _OTHER[index % len(_OTHER)])


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
            error_x=error_bars(row, key) if row.get(f"{key}_ci") else None,
            mode="markers",
            marker={"size": 12, "color": _colour(row, index)},
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
            error_y=error_bars(row, key) if row.get(f"{key}_ci") else None,
            mode="markers",
            name=name,
            marker={"size": 12, "color": _colour(row, index), "symbol": _SYMBOLS[index % len(_SYMBOLS)]},
            hovertemplate=f"{name}: {BY_KEY[key].cell(row)}, {BY_KEY[time].cell(row)}<extra></extra>",
        )
    figure.update_xaxes(rangemode="tozero")
    figure.update_yaxes(rangemode="tozero", tickformat=".0%" if key == "accuracy" else ".2f")
    figure.update_layout(
        showlegend=True,
        legend={"orientation": "h", "entrywidth": 180, "x": 0, "y": 0, "yref": "container", "yanchor": "bottom"},
        margin={"b": 40 + 20 * len(rows)},  # on a phone the names stand below each other
    )
    return figure


def _see_through(title: str, models: int) -> Any:
    import plotly.graph_objects as go

    figure = go.Figure()
    figure.update_layout(title=title, template="plotly_white", showlegend=False, height=max(380, 120 + 36 * models))
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
