"""The charts of a data set: lengths, intents, drop reasons. Plotly figures without a background of their own;
the page's style sheet colours their text and lines, so they are read in light and in dark."""

from __future__ import annotations

from collections import Counter
from typing import Any

from evals.charts import COLOURS
from ui.data_source import KEPT, REFERENCE, Data
from ui.data_view import DROPPED, group_of, lengths

_COLOURS = {
    "Questions": "#3b82c4",
    "Teacher's replies": COLOURS["teacher"],
    "References": COLOURS["reference_trained"],
}
_GROUPS = {KEPT: ("kept", "#0a8f6a"), DROPPED: ("dropped", "#c0504d")}
_UNDECIDED = "#8a8f94"
MOST_INTENTS = 20
_BINS = 14


def length_chart(data: Data) -> Any:
    """Share of the texts by their number of words."""
    found = lengths(data)
    longest = sorted(n for counts in found.values() for n in counts)
    # The longest hundredth would squeeze the rest into a corner: it is counted in the last bin.
    top = longest[int(0.99 * (len(longest) - 1))] if longest else 1
    width = max(1, -(-(top + 1) // _BINS))
    bins = range(0, top + 1, width)
    figure = _figure("How long the texts are")
    for name, counts in found.items():
        by_bin = Counter(min(n, top) // width for n in counts)
        shares = [100 * by_bin[k] / len(counts) for k in range(len(bins))]
        figure.add_scatter(
            x=[start + (width - 1) / 2 for start in bins],
            y=shares,
            customdata=[f"{start}" if width == 1 else f"{start} to {start + width - 1}" for start in bins],
            hovertemplate="%{customdata} words: %{y:.1f}%<extra>" + name + "</extra>",
            mode="lines",
            line={"width": 2.5, "color": _COLOURS[name]},
            name=name,
        )
    figure.update_xaxes(title="words", rangemode="tozero")
    figure.update_yaxes(title="% of the texts", rangemode="tozero")
    figure.update_layout(showlegend=True, margin_t=92)  # on a phone the legend has a line for each of them
    return figure


def intent_chart(data: Data) -> Any:
    """Turns by intent, and how many of them are kept and dropped."""
    counts: dict[str, Counter[str]] = {}
    for row in data.rows:
        counts.setdefault(row.intent or "(none named)", Counter())[group_of(row.status)] += 1
    largest = sorted(counts, key=lambda intent: (-counts[intent].total(), intent))
    shown = {intent: counts[intent] for intent in largest[:MOST_INTENTS]}
    part = f", the {MOST_INTENTS} commonest of {len(largest)}" if len(largest) > MOST_INTENTS else ""
    figure = _figure(f"Intents{part}", len(shown))
    names = list(shown)[::-1]  # the first one on top
    groups = [KEPT, DROPPED, *sorted({g for c in shown.values() for g in c} - {KEPT, DROPPED})]
    for group in groups:
        if any(shown[name][group] for name in names):
            words, colour = _GROUPS.get(group, (group, _UNDECIDED))
            _bar(
                figure, [shown[name][group] for name in names], names, "turns" if group == REFERENCE else words, colour
            )
    figure.update_layout(
        barmode="stack",
        showlegend=len(figure.data) > 1,
    )
    return figure


def reason_chart(data: Data) -> Any | None:
    """Why replies were dropped. None where none were."""
    reasons = Counter(row.reason or row.status for row in data.rows if row.reason or group_of(row.status) == DROPPED)
    if not reasons:
        return None
    names = [reason for reason, _ in reasons.most_common()][::-1]
    figure = _figure("Why replies were dropped", len(names))
    figure.update_layout(height=90 + 24 * max(len(names), 3), margin_t=36)
    _bar(figure, [reasons[name] for name in names], names, "turns", _GROUPS[DROPPED][1])
    return figure


def _bar(figure: Any, values: list[int], names: list[str], words: str, colour: str) -> None:
    figure.add_bar(
        x=values,
        y=names,
        orientation="h",
        name=words,
        marker_color=colour,
        hovertemplate="%{y}: %{x} " + words + "<extra></extra>",
    )


def _figure(title: str, bars: int | None = None) -> Any:
    """`bars`: how many there are, one above the other; the height follows."""
    import plotly.graph_objects as go

    figure = go.Figure()
    figure.update_layout(
        template="none",
        title={"text": title, "x": 0, "xref": "container", "y": 1, "yref": "container", "yanchor": "top"},
        title_pad={"t": 8},
        title_font={"size": 15},
        legend={"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0, "traceorder": "normal"},
        height=330 if bars is None else 110 + 22 * max(bars, 3),
        margin={"l": 10, "r": 10, "t": 72, "b": 40},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 12},
        bargap=0.25,
        showlegend=False,
        dragmode=False,  # a finger that scrolls the page must not draw a box
    )
    figure.update_xaxes(automargin=True, fixedrange=True, zeroline=False)
    figure.update_yaxes(automargin=True, fixedrange=True, zeroline=False)
    return figure
