"""Side by side: one customer, two contestants that answer at the same time.

The talking (`answer_both`) knows nothing of Gradio. Two producers each write into an `Exchange` of
their own as the text comes; the page reads both a few times a second, so neither waits for the other
and the history is not sent anew with every token. Stop and Clear leave a mark in the transcript, and
the same loop obeys it: what a visitor sees has one writer.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from html import escape
from typing import Any, Literal, cast

import gradio as gr

from distiller.chat import ChatRequest, Sampling
from distiller.errors import DistillerError
from distiller.schema import Completion, Message
from ui.models import ModelCache, contestant_names, default_pair

SAMPLING = Sampling(temperature=0.0, max_tokens=128)
MAX_CHARACTERS = 2_000
UPDATE_S = 0.15  # each update re-sends the conversation

EXAMPLES = (
    ("Track my order", "I ordered two days ago and heard nothing since. How can I see where my parcel is?"),
    ("Return earbuds", "I opened my Aria Buds and they do not fit my ears. Can I send them back?"),
    ("Payment failed", "My card was declined three times at checkout. What can I do now?"),
    ("Frozen watch", "My Orbit Watch is frozen and does not react to touch. How do I restart it?"),
    ("Talk to a person", "This chat does not help me. I want to talk to a person. When can I call you?"),
)


@dataclass
class Exchange:
    """One question to one contestant, and what became of it."""

    query: str
    state: Literal["waiting", "opening", "answering", "answered", "stopped", "failed"] = "waiting"
    reply: str = ""
    error: str = ""
    completion: Completion | None = None
    #: Seconds before the model was asked: a teacher looks policies up first, and its customer waits for that.
    before_s: float = 0.0

    @property
    def running(self) -> bool:
        return self.state in {"waiting", "opening", "answering"}


@dataclass
class Transcript:
    """A conversation with two contestants, each with its own side of it. Changed in place, never replaced."""

    left: list[Exchange] = field(default_factory=list)
    right: list[Exchange] = field(default_factory=list)
    #: How the visitor wants the replies under way to end.
    ended: Literal["", "stopped", "cleared"] = ""

    @property
    def last(self) -> list[Exchange]:
        return [side[-1] for side in (self.left, self.right) if side]

    def clear(self) -> None:
        self.left.clear()
        self.right.clear()


def history_of(exchanges: Sequence[Exchange]) -> list[Message]:
    """What a contestant remembers. A question that got no reply was never asked: it can be sent again."""
    messages: list[Message] = []
    for exchange in exchanges:
        if exchange.reply and exchange.state in {"answered", "stopped"}:
            messages.append(Message(role="user", content=exchange.query))
            messages.append(Message(role="assistant", content=exchange.reply))
    return messages


async def answer_both(
    models: ModelCache, names: tuple[str, str], transcript: Transcript, query: str
) -> AsyncIterator[None]:
    """Asks both contestants; yields whenever the transcript has something new. Closing it stops both."""
    pasts = (history_of(transcript.left), history_of(transcript.right))
    exchanges = (Exchange(query), Exchange(query))
    transcript.left.append(exchanges[0])
    transcript.right.append(exchanges[1])
    transcript.ended = ""

    async def talk() -> None:
        async with models.seats, asyncio.TaskGroup() as producers:
            for name, past, exchange in zip(names, pasts, exchanges, strict=True):
                producers.create_task(_answer(models, name, past, exchange))

    talking = asyncio.create_task(talk())
    shown: object = None
    try:
        while not talking.done() and not transcript.ended:
            now = [(exchange.state, len(exchange.reply)) for exchange in exchanges]
            if now != shown:
                yield
                shown = now
            await asyncio.wait({talking}, timeout=UPDATE_S)
    finally:
        # Not waited for: a model ends its step first, or another visitor's reply that it stands behind.
        talking.cancel()
        for exchange in exchanges:
            if exchange.running:
                exchange.state = "stopped"
    if transcript.ended == "cleared":
        transcript.clear()
    yield


async def _answer(models: ModelCache, name: str, past: Sequence[Message], exchange: Exchange) -> None:
    exchange.state = "opening"
    try:
        async with models.lease(name) as opened:
            exchange.state = "answering"
            asked = time.perf_counter()
            messages = await opened.messages(past, exchange.query)
            exchange.before_s = time.perf_counter() - asked
            request = ChatRequest(messages=messages, sampling=SAMPLING)
            stream = cast(AsyncGenerator[str | Completion, None], opened.model.stream(request))
            async with aclosing(stream) as pieces:
                async for piece in pieces:
                    if isinstance(piece, Completion):
                        exchange.completion, exchange.reply = piece, piece.text
                    else:
                        exchange.reply += piece
        exchange.state = "answered"
    except DistillerError as error:
        exchange.state, exchange.error = "failed", str(error)
    except Exception as error:  # a bug on one side leaves the other its reply; the log has the traceback
        logging.getLogger(__name__).exception("%s could not answer", name)
        exchange.state = "failed"
        exchange.error = f"Something broke on our side ({type(error).__name__}). The log of the app says more."


def problem_with(query: str) -> str:
    """Why a text cannot be sent, in words; empty where it can."""
    if not query.strip():
        return "Type a question first, or take one of the examples."
    if len(query) > MAX_CHARACTERS:
        return f"Your text has {len(query):,} characters; at most {MAX_CHARACTERS:,} can be sent. Shorten it."
    return ""


def to_chat(exchanges: Sequence[Exchange]) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    for exchange in exchanges:
        reply = exchange.reply
        if exchange.error:
            reply = f"{reply}\n\n⚠ {exchange.error}".strip()
        elif not reply:
            reply = "…" if exchange.running else "(no text)"
        # Gradio shows plain text as HTML, so a tag in it would be drawn, or fetch a picture from elsewhere.
        messages.append({"role": "user", "content": escape(exchange.query, quote=False)})
        messages.append({"role": "assistant", "content": escape(reply, quote=False)})
    return messages


def to_figures(exchanges: Sequence[Exchange]) -> str:
    """The line under a chat, about its last reply."""
    if not exchanges:
        return _line("Its times appear here after the reply.")
    last = exchanges[-1]
    words = {
        "waiting": "Waiting for the replies to other visitors…",
        "opening": "Loading the model…",
        "answering": "Answering…",
        "stopped": "Stopped.",
        "failed": "No reply. Your text is kept.",
    }
    if last.state != "answered" or last.completion is None:
        return _line(words.get(last.state, ""))
    completion = last.completion
    parts: list[str] = []
    if completion.latency_s:
        latency = completion.latency_s + last.before_s
        parts.append(_figure("Latency", f"{latency:.2f} s", "from sending to the end of the reply"))
        if completion.ttft_s is not None:
            ttft = completion.ttft_s + last.before_s
            parts.append(_figure("TTFT", f"{ttft:.2f} s", "time to first token: from sending to the first text"))
        if completion.completion_tokens:
            speed = completion.completion_tokens / latency
            parts.append(_figure("Speed", f"{speed:.1f} tokens/s", "tokens of the reply over its latency"))
    if completion.finish_reason == "length":
        parts.append(f"cut at {SAMPLING.max_tokens} tokens")
    return _line("".join(f"<span>{part}</span>" for part in parts))


def _figure(name: str, value: str, meaning: str) -> str:
    return f'<abbr title="{escape(meaning)}">{name}</abbr> <b>{value}</b>'


def _line(inner: str) -> str:
    return f'<div class="figures" role="status">{inner}</div>'


def _notice(words: str) -> str:
    return f'<div class="notice" role="alert">{escape(words)}</div>' if words else ""


def _panes(transcript: Transcript) -> tuple[Any, ...]:
    return (
        to_chat(transcript.left),
        to_chat(transcript.right),
        to_figures(transcript.left),
        to_figures(transcript.right),
    )


async def send(
    models: ModelCache, query: str, left: str, right: str, transcript: Transcript
) -> AsyncIterator[tuple[Any, ...]]:
    """→ four panes, the text box, the notice."""
    if problem := problem_with(query):
        yield *_panes(transcript), gr.skip(), _notice(problem)
        return
    talking = cast(AsyncGenerator[None, None], answer_both(models, (left, right), transcript, query.strip()))
    box: Any = ""  # emptied once; what is typed while the replies come stays
    async with aclosing(talking):
        async for _ in talking:
            yield *_panes(transcript), box, ""
            box = gr.skip()


def give_back(text: str, transcript: Transcript) -> Any:
    """Puts a question that failed back into the box, unless the visitor has typed something there since."""
    failed = next((exchange.query for exchange in transcript.last if exchange.state == "failed"), "")
    # The box is written only where there is something to give: it may be typed into at this very moment.
    return failed if failed and not text.strip() else gr.skip()


def stop(transcript: Transcript) -> None:
    transcript.ended = "stopped"


def clear(transcript: Transcript) -> tuple[Any, ...]:
    """→ four panes, the notice. While replies come, the loop that shows them clears the panes instead."""
    if any(exchange.running for exchange in transcript.last):
        transcript.ended = "cleared"
        return (*[gr.skip()] * 4, "")
    transcript.clear()
    return *_panes(transcript), ""


def offer() -> tuple[Any, ...]:
    """The names there are now: a run may have been finished since the server was started."""
    names = contestant_names()
    left, right = default_pair(names)
    return gr.Dropdown(choices=names, value=left), gr.Dropdown(choices=names, value=right)


def build_arena_tab(page: gr.Blocks, models: ModelCache) -> None:
    transcript = gr.State(Transcript())
    names = contestant_names()
    defaults = default_pair(names)
    dropdowns, chats, figures = [], [], []
    with gr.Row(elem_id="sides"):
        for side, default in zip("AB", defaults, strict=True):
            with gr.Column(min_width=300):
                dropdowns.append(
                    gr.Dropdown(names, value=default, label=f"Contestant {side}", elem_id=f"contestant-{side}")
                )
                chats.append(
                    gr.Chatbot(
                        label=f"Chat with contestant {side}",
                        show_label=False,
                        elem_id=f"chat-{side}",
                        elem_classes="chat",
                        height="100%",
                        placeholder="Its replies appear here.",
                        buttons=[],
                        layout="bubble",
                        # What was said is shown as it was said: no Markdown, and no formulas from "$5 to $9".
                        render_markdown=False,
                        latex_delimiters=[],
                    )
                )
                figures.append(gr.HTML(to_figures([]), elem_id=f"figures-{side}"))
    with gr.Column(elem_id="composer"):
        with gr.Row(elem_id="examples"):
            buttons = [gr.Button(title, size="sm", min_width=0) for title, _ in EXAMPLES]
        with gr.Row(elem_id="ask"):
            box = gr.Textbox(
                label="Your question to both",
                show_label=False,
                container=False,
                placeholder="Ask as a customer of Fernhill Electronics…",
                lines=1,  # Enter sends; Shift and Enter make a new line
                max_lines=6,
                elem_id="query",
            )
            with gr.Row(elem_id="actions"):
                send_button = gr.Button("Send", variant="primary", min_width=80, size="md")
                stop_button = gr.Button("Stop", min_width=70, size="md")
                clear_button = gr.Button("Clear", min_width=70, size="md")
        notice = gr.HTML(elem_id="notice")
    gr.HTML(
        '<p class="small">Both answer at the same time on this machine, so each slows the other down; times measured '
        "alone are in the leaderboard. One model on both sides answers them one after the other. Picking another "
        "contestant starts a new conversation.</p>",
    )

    panes = [*chats, *figures]
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    # No limit here: who has to wait waits in `answer_both`, where it is said in words and Stop works.
    sending = gr.on(
        [send_button.click, box.submit],
        partial(send, models),
        [box, *dropdowns, transcript],
        [*panes, box, notice],
        concurrency_limit=None,
        **quiet,
    )
    sending.then(give_back, [box, transcript], box, **quiet)
    stop_button.click(stop, transcript, None, queue=False, **quiet)
    gr.on(
        [clear_button.click, *(dropdown.input for dropdown in dropdowns)],
        clear,
        transcript,
        [*panes, notice],
        queue=False,
        **quiet,
    )
    for button, (_, text) in zip(buttons, EXAMPLES, strict=True):
        button.click(None, None, box, js=f"() => {json.dumps(text)}", api_visibility="private")
    page.load(offer, None, dropdowns, queue=False, **quiet)
