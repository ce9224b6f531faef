"""A report's conversations side by side: filters, a pager, and one conversation at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ui.evaluation_html import conversation_html, position_html
from ui.evaluation_view import Filters, intents, matching, name_of, outcomes, shown_models, turn_numbers

#: Component → what it becomes; those that are not in it stay as they are.
Updates = dict[Any, Any]


@dataclass(frozen=True)
class Browser:
    """The side-by-side part: filters, pager, and the conversation."""

    intent: gr.Dropdown
    turn: gr.Dropdown
    outcome: gr.Dropdown
    text: gr.Textbox
    models: gr.CheckboxGroup
    against: gr.Dropdown
    place: gr.State
    before: gr.Button
    after: gr.Button
    position: gr.HTML
    conversation: gr.HTML

    @property
    def filters(self) -> list[Any]:
        return [self.intent, self.turn, self.outcome, self.text, self.models, self.against]

    def opened(self, report: dict[str, Any]) -> Updates:
        """Filters that fit the report, and its first conversation."""
        names = name_of(report)
        every = list(names)
        against = [("the reference", "reference"), *((name, model) for model, name in names.items()), ("nothing", "")]
        values = ("", 0, "", "", every, "reference")
        return {
            self.intent: gr.Dropdown(choices=[("Any", ""), *intents(report)], value=""),
            self.turn: gr.Dropdown(choices=[("Any", 0), *((str(n), n) for n in turn_numbers(report))], value=0),
            self.outcome: gr.Dropdown(choices=_outcomes(report, every), value=""),
            self.text: "",
            self.models: gr.CheckboxGroup(choices=[(name, model) for model, name in names.items()], value=every),
            self.against: gr.Dropdown(choices=against, value="reference"),
            **self.at(report, values, 0),
        }

    def with_models(self, report: dict[str, Any], values: Sequence[Any], place: int) -> Updates:
        """Other models: what can be right or wrong depends on them, and the conversation stays if it can."""
        intent, turn, outcome, text, models, against = values
        choices = _outcomes(report, models)
        outcome = outcome if outcome in {key for _, key in choices} else ""
        kept = self.at(report, (intent, turn, outcome, text, models, against), place)
        return kept | {self.outcome: gr.Dropdown(choices=choices, value=outcome)}

    def at(self, report: dict[str, Any], values: Sequence[Any], place: int) -> Updates:
        """The conversation number `place` of those that pass the filters' `values`."""
        intent, turn, outcome, text, models, against = values
        filters = Filters(intent or "", int(turn or 0), outcome or "", text or "", tuple(models or ()))
        found = matching(report, filters)
        place = min(max(place, 0), max(len(found) - 1, 0))
        turns = sum(len(passing) for _, passing in found)
        shown = shown_models(report, filters)
        return {
            self.place: place,
            self.before: gr.Button(interactive=place > 0),
            self.after: gr.Button(interactive=place + 1 < len(found)),
            self.position: position_html(place, len(found), turns, len(report["conversations"])),
            self.conversation: conversation_html(report, *found[place], shown, against or "") if found else "",
        }


def _outcomes(report: dict[str, Any], models: Sequence[str]) -> list[tuple[str, str]]:
    known = outcomes(report, shown_models(report, Filters(models=tuple(models))))
    return [(words, key) for key, (words, _) in known.items()]


def build_browser() -> Browser:
    with gr.Row(elem_id="evaluation-filters"):
        intent = gr.Dropdown([("Any", "")], value="", label="Intent", min_width=150)
        turn = gr.Dropdown([("Any", 0)], value=0, label="Turn", min_width=90)
        outcome = gr.Dropdown([("Any", "")], value="", label="Right or wrong", min_width=150)
        text = gr.Textbox(label="Search", placeholder="Words in any text", min_width=150)
    with gr.Row():
        models = gr.CheckboxGroup([], label="Models", min_width=260, scale=3)
        against = gr.Dropdown(
            [("the reference", "reference")], value="reference", label="Mark words that differ from", min_width=200
        )
    with gr.Row(elem_id="evaluation-pager"):
        before = gr.Button("← Previous", size="sm", min_width=0)
        position = gr.HTML()
        after = gr.Button("Next →", size="sm", min_width=0)
    conversation = gr.HTML(elem_id="evaluation-conversation")
    return Browser(intent, turn, outcome, text, models, against, gr.State(0), before, after, position, conversation)
