"""The charts of a report, as plotly figures; the app shows the same ones.

Their paper is transparent, so that they stand on a light page and on a dark one.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from evals.labels import labels

COLOURS = {
    "teacher": "#7a5cc0",
    "student": "#0a8f6a",
    "baseline": "#9aa0a6",
    "reference_trained": "#d98a1f",
    "untouched": "#c0504d",
}
_OTHER = ("#3b6fb6", "#b64a8f", "#5f8f3b", "#8a6d3b", "#1f9bb0", "#a05a2c")
#: Rows of the heat map: beyond, those with the fewest turns are left out.
MAX_INTENTS = 40
_LONGEST = 28
_ARROWS = ("array", "arrayminus")


def charts(report: dict[str, Any]) -> list[Any]:
    """Quality with intervals, quality against latency, against memory, by turn, by intent.

    Without accuracy it is similarity; without both, and where there is nothing to tell apart, a chart is left out.
    """
    rows = report["rows"]
    quality = "accuracy" if report["accuracy_kind"] else "embedding_similarity"
    words = {"accuracy": "accuracy", "embedding_similarity": "embedding similarity"}[quality]
    names = {model: _short(name.replace("_trained", "-trained")) for model, name in labels(rows).items()}
    colours = _colours(rows)
    if all(row[quality] is None for row in rows):
        return []
    figures = [_bars(rows, names, colours, quality, words)]
    for key, what, axis in (
        ("latency_p50_s", "response time", "median seconds a reply"),
        ("peak_memory_mb", "memory", "peak memory, MB"),
    ):
        if sum(row[key] is not None for row in rows) > 1:
            figures.append(_against(rows, names, colours, (quality, words), key, what, axis))
    groups = [report["groups"][row["model"]] for row in rows]
    if any(len(group["turn"]) > 1 for group in groups):
        figures.append(_by_turn(report, names, colours, quality, words))
    if any(set(group["intent"]) != {"none"} for group in groups):
        figures.append(_heat_map(report, names, quality, words))
    return figures


def _colours(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    roles = [row["role"] for row in rows]
    known = {r["model"]: COLOURS[r["role"]] for r in rows if r["role"] in COLOURS and roles.count(r["role"]) == 1}
    others = [row["model"] for row in rows if row["model"] not in known]
    return known | {model: _OTHER[k % len(_OTHER)] for k, model in enumerate(others)}


def _short(text: str) -> str:
    """Plotly reads tags in its texts, and what is written here comes from names and data."""
    return escape(text if len(text) <= _LONGEST else f"…{text[1 - _LONGEST :]}", quote=False)


def _figure(title: str, height: int = 340) -> Any:
    import plotly.graph_objects as go

    figure = go.Figure()
    figure.update_layout(
        title={"text": title, "font": {"size": 15}, "x": 0.03, "y": 1, "yanchor": "top", "pad": {"t": 14}},
        font={"family": "system-ui, Segoe UI, Roboto, Helvetica Neue, Liberation Sans, sans-serif"},
        height=height,
        template="plotly_white",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 56, "r": 16, "t": 44, "b": 48},
        showlegend=False,
        dragmode=False,  # a finger that scrolls past must not zoom
        modebar={"bgcolor": "rgba(0,0,0,0)"},
    )
    figure.update_xaxes(fixedrange=True)
    figure.update_yaxes(fixedrange=True)
    return figure


def error_bars(row: dict[str, Any], key: str) -> dict[str, Any]:
    low, high = row[f"{key}_ci"]
    return {"type": "data", "symmetric": False, "array": [high - row[key]], "arrayminus": [row[key] - low]}


def _scale(words: str) -> dict[str, Any]:
    percent = {"tickformat": ".0%"} if words == "accuracy" else {}
    return {"title": words, "range": [0, 1.05], "dtick": 0.2, **percent}


def _bars(rows: Any, names: dict[str, str], colours: dict[str, str], key: str, words: str) -> Any:
    figure = _figure(f"{words.capitalize()}, 95% intervals")
    for row in rows:
        if row[key] is not None:
            figure.add_bar(
                x=[names[row["model"]]],
                y=[row[key]],
                error_y=error_bars(row, key) | {"color": "#808080"},
                marker_color=colours[row["model"]],
                name=names[row["model"]],
            )
    figure.update_yaxes(**_scale(words))
    return figure


def _against(
    rows: Any, names: dict[str, str], colours: dict[str, str], quality: tuple[str, str], x: str, what: str, axis: str
) -> Any:
    """The better corner is above on the left. Models that lie on each other are told apart by the legend."""
    key, words = quality
    figure = _figure(f"{words.capitalize()} against {what}")
    for row in rows:
        if row[key] is not None and row[x] is not None:
            figure.add_scatter(
                x=[row[x]],
                y=[row[key]],
                error_y=error_bars(row, key),
                mode="markers",
                cliponaxis=False,
                name=names[row["model"]],
                marker={"size": 13, "color": colours[row["model"]]},
            )
    _legend(figure)
    figure.update_xaxes(title=axis, rangemode="tozero")
    figure.update_yaxes(**_scale(words))
    return figure


def _legend(figure: Any) -> None:
    """Below the axis, in room of its own: as much as it takes on a phone, where two short names stand in a line."""
    names = [trace.name for trace in figure.data]
    longest = max(map(len, names), default=0)
    lines = len(names) if longest > 18 else (len(names) + 1) // 2
    room = 20 * lines
    figure.update_layout(
        showlegend=True,
        height=figure.layout.height + room - 20,
        margin={"b": 56 + room},
        legend={
            "orientation": "h",
            "yref": "container",
            "yanchor": "bottom",
            "y": 0,
            "x": 0,
            "entrywidthmode": "pixels",
            "entrywidth": 7 * longest,
            "itemclick": False,
            "itemdoubleclick": False,
        },
    )


def _heat_map(report: dict[str, Any], names: dict[str, str], key: str, words: str) -> Any:
    import plotly.graph_objects as go

    groups = report["groups"]
    counts: dict[str, int] = {}
    for model in names:
        counts |= {intent: group["n"] for intent, group in groups[model]["intent"].items()}
    # Cut by size, read by name; the first one stands above.
    largest = sorted(counts, key=lambda intent: -counts[intent])[:MAX_INTENTS]
    intents = sorted(largest, reverse=True)
    values = [[groups[model]["intent"].get(intent, {}).get(key) for model in names] for intent in intents]
    shown = "" if len(largest) == len(counts) else f", the {MAX_INTENTS} largest of {len(counts)}"
    figure = _figure(f"{words.capitalize()} by intent{shown}", height=110 + 24 * max(1, len(intents)))
    figure.update_layout(margin={"t": 100, "b": 12})
    figure.add_trace(
        go.Heatmap(
            z=values,
            x=list(range(len(names))),  # by place: two shortened names may be the same
            y=list(range(len(intents))),
            customdata=[[counts[intent]] * len(names) for intent in intents],
            zmin=0,
            zmax=1,
            colorscale="Viridis",
            showscale=False,
            xgap=2,
            ygap=2,
            texttemplate="%{z:.0%}" if words == "accuracy" else "%{z:.2f}",
            textfont={"size": 11},
            hovertemplate="%{y}, %{x}<br>" + words + " %{z:.2f}, %{customdata} turns<extra></extra>",
        )
    )
    ticks = {"tickmode": "array", "showgrid": False, "zeroline": False, "automargin": True}
    shown_names = list(names.values())
    figure.update_xaxes(tickvals=list(range(len(names))), ticktext=shown_names, side="top", tickangle=35, **ticks)
    figure.update_yaxes(tickvals=list(range(len(intents))), ticktext=[_short(intent) for intent in intents], **ticks)
    return figure


def _joined(bars: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Those of several points as one line takes them."""
    ends = {end: [bar[end][0] for bar in bars] for end in ("array", "arrayminus")}
    return {"type": "data", "symmetric": False, "thickness": 1, **ends}


def _by_turn(report: dict[str, Any], names: dict[str, str], colours: dict[str, str], key: str, words: str) -> Any:
    figure = _figure(f"{words.capitalize()} by turn of the conversation")
    for model, name in names.items():
        turns = report["groups"][model]["turn"]
        known = [(int(t), group) for t, group in turns.items() if group.get(key) is not None]
        bars = [error_bars(group, key) for _, group in known if group.get(f"{key}_ci")]
        figure.add_scatter(
            x=[t for t, _ in known],
            y=[group[key] for _, group in known],
            error_y=_joined(bars) if len(bars) == len(known) else None,
            customdata=[group["n"] for _, group in known],
            mode="lines+markers",
            cliponaxis=False,
            name=name,
            line={"color": colours[model]},
            hovertemplate="turn %{x}: %{y:.2f}, %{customdata} turns",
        )
    _legend(figure)
    figure.update_xaxes(title="turn", dtick=1)
    figure.update_yaxes(**_scale(words))
    return figure


def load_charts(report: dict[str, Any]) -> list[Any]:
    """Of a load test: the time of a reply, and the replies a second, against the users at once."""
    models = report["models"]
    names = {model: _short(name) for model, name in labels(models).items()}
    colours = _colours(models)
    figures = []
    for key, title, axis in (
        ("latency_p95_s", "Time that 95% of the replies stay under, 95% intervals", "p95 of a whole reply, seconds"),
        ("replies_per_s", "Throughput", "replies a second"),
    ):
        figure = _figure(title)
        for model in models:
            levels = [level for level in model["levels"] if level[key] is not None]
            bounded = [level for level in levels if None not in (level.get(f"{key}_ci") or [None])]
            bars = [error_bars(level, key) for level in levels] if levels and len(bounded) == len(levels) else []
            figure.add_scatter(
                x=[level["users"] for level in levels],
                y=[level[key] for level in levels],
                error_y={"type": "data", "symmetric": False} | {k: [bar[k][0] for bar in bars] for k in _ARROWS}
                if bars
                else None,
                mode="lines+markers",
                cliponaxis=False,
                name=names[model["model"]],
                line={"color": colours[model["model"]]},
            )
        if key == "latency_p95_s" and report["equal_p95"]:
            limit = report["equal_p95"]["limit_s"]
            words = f"{names[report['equal_p95']['first']]}, one user"
            figure.add_hline(y=limit, line_dash="dash", line_color="#808080", annotation_text=words)
        _legend(figure)
        # Levels double: on a logarithmic axis they are equally far apart.
        ticks = sorted({level["users"] for model in models for level in model["levels"]})
        figure.update_xaxes(title="users at once", type="log", tickvals=ticks, ticktext=[f"{n:,}" for n in ticks])
        figure.update_yaxes(title=axis, rangemode="tozero")
        figures.append(figure)
    return figures
