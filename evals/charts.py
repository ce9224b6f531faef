"""The charts of a report, as plotly figures; the app shows the same ones."""

from __future__ import annotations

from typing import Any

COLOURS = {
    "teacher": "#7a5cc0",
    "student": "#0a8f6a",
    "baseline": "#9aa0a6",
    "reference_trained": "#d98a1f",
    "untouched": "#c0504d",
}
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
