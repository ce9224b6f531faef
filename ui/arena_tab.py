"""Arena: a customer's question goes to two contestants, side by side, blind until the visitor has voted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from html import escape
from typing import Any, cast

import gradio as gr

from distiller.chat import Sampling
from distiller.errors import DistillerError
from evals.battles import Choice
from evals.votes import VoteStore
from ui import battle as battles
from ui.access import RateLimit, visitor_of
from ui.arena_view import CHOICES, COPY_LINK, to_chat, to_figures, to_notice, to_verdict
from ui.battle import Battle, Customer, customers, shared, similarities
from ui.exchange import SAMPLING, answer_both, problem_with
from ui.models import ModelCache, blind_pool, default_pair, label_of, offered

#: Another reply to the same question is drawn, not searched: the likeliest one is what was there before.
AGAIN = SAMPLING.model_copy(update={"temperature": 0.7, "top_p": 0.9})
_EXAMPLES = 5
BLIND, NAMED = "Blind battle", "Named models"


def _panes(battle: Battle, similar: Sequence[tuple[float, float] | None] = ()) -> tuple[Any, ...]:
    """→ both chats, both lines of figures."""
    transcript = battle.transcript
    last = similar[-1] if similar else None
    return (
        to_chat(transcript.left),
        to_chat(transcript.right),
        to_figures(transcript.left, battle.named, last[0] if last else None),
        to_figures(transcript.right, battle.named, last[1] if last else None),
    )


#: How many values `_frame` gives.
_FRAMED = 2 + len(CHOICES) + 3


def _frame(battle: Battle) -> tuple[Any, ...]:
    """What changes only when a turn begins or ends → names, vote buttons, the verdict, Again, the link's button."""
    votable = battle.open_to_vote
    answered = not any(exchange.running for exchange in battle.transcript.last) and bool(battle.transcript.last)
    return (
        *(f'<div class="side-name">{escape(name)}</div>' for name in battle.names()),
        *(gr.update(interactive=votable) for _ in CHOICES),
        to_verdict(battle),
        gr.update(interactive=answered and not battle.closed),
        gr.update(interactive=bool(battle.id)),
    )


# What happens.


@dataclass
class Arena:
    """What all visitors share: the opened models, the votes, and how often each may ask."""

    models: ModelCache
    store: VoteStore
    limit: RateLimit = field(default_factory=lambda: RateLimit("questions", times=20))

    async def send(self, query: str, battle: Battle, request: gr.Request) -> AsyncIterator[tuple[Any, ...]]:
        """→ four panes, the text box, the notice, the frame."""
        async for shown in self._talk(query, battle, request, SAMPLING):
            yield shown

    async def again(self, battle: Battle, request: gr.Request) -> AsyncIterator[tuple[Any, ...]]:
        """The last question once more, drawn anew → as `send`."""
        last = battle.transcript.last
        if len(last) < 2 or any(exchange.running for exchange in last):
            return
        sampling = AGAIN.model_copy(update={"seed": battle.redrawn + 1})
        async for shown in self._talk(last[0].query, battle, request, sampling, again=True):
            yield *shown[:4], gr.skip(), *shown[5:]  # what is being typed stays

    async def _talk(
        self, query: str, battle: Battle, request: gr.Request, sampling: Sampling, *, again: bool = False
    ) -> AsyncIterator[tuple[Any, ...]]:
        visitor = visitor_of(request)
        still = [gr.skip()] * _FRAMED
        try:
            if battle.closed:
                raise DistillerError("This battle is somebody else's, to be read. Press New battle for your own.")
            if any(exchange.running for exchange in battle.transcript.last):
                raise DistillerError("Both are still answering. Wait for them, or press Stop first.")
            if problem := problem_with(query):
                raise DistillerError(problem)
            self.limit.check(visitor)
            pair = await asyncio.to_thread(battles.begin, battle, blind_pool)
            if missing := next((name for name in pair if name not in offered(visitor)), None):
                raise DistillerError(f"{missing} is not offered here any more. Pick another contestant.")
            if again:
                battles.take_back(battle)
        except DistillerError as error:
            yield *_panes(battle), gr.skip(), to_notice(str(error)), *still
            return
        answering = answer_both(self.models, pair, battle.transcript, query.strip(), sampling)
        box: Any = ""  # emptied once; what is typed while the replies come stays
        async with aclosing(cast(AsyncGenerator[None, None], answering)) as talking:
            async for _ in talking:
                if battle.left:
                    break
                yield *_panes(battle), box, "", *(_frame(battle) if box == "" else still)
                box = gr.skip()
        if battle.left:
            return
        words = ""
        try:
            await asyncio.to_thread(battles.record, battle, self.store, visitor.id)
        except DistillerError as error:
            words = str(error)
        yield *_panes(battle), box, to_notice(words), *_frame(battle)

    async def vote(self, choice: Choice, battle: Battle, request: gr.Request) -> AsyncIterator[tuple[Any, ...]]:
        """→ four panes, the notice, the frame; the similarity comes a moment later, with the encoder."""
        try:
            await asyncio.to_thread(battles.cast, battle, choice, self.store, visitor_of(request).id)
        except DistillerError as error:
            yield *_panes(battle), to_notice(str(error)), *_frame(battle)
            return
        yield *_panes(battle), "", *_frame(battle)
        try:
            similar = await asyncio.to_thread(similarities, battle)
        except DistillerError:  # no embedding model here: the figures stand without the similarity
            return
        if battle.left:
            return
        yield *_panes(battle, similar), "", *[gr.skip()] * _FRAMED

    async def warm(self) -> None:
        self.models.warm(default_pair(await asyncio.to_thread(blind_pool)))

    def first_shown(self, request: gr.Request) -> tuple[Any, ...]:
        """The names there are now, and the battle of the link → dropdowns, battle, four panes, the notice, the frame."""
        names = list(offered(visitor_of(request)))
        choices = [(label_of(name), name) for name in names]
        battle, words = Battle(), ""
        if linked := request.query_params.get("battle"):
            try:
                battle = shared(str(linked), self.store)
            except DistillerError as error:
                words = str(error)
        dropdowns = (gr.Dropdown(choices=choices, value=name) for name in default_pair(names))
        return *dropdowns, battle, *_panes(battle), to_notice(words), *_frame(battle)


def give_back(text: str, battle: Battle) -> Any:
    """Puts a question that failed back into the box, else the replayed customer's next line."""
    last = battle.transcript.last
    failed = next((exchange.query for exchange in last if exchange.state == "failed"), "")
    offer = failed or battle.next_line
    # The box is written only where there is something to give: it may be typed into at this very moment.
    return offer if offer and not text.strip() else gr.skip()


def stop(battle: Battle) -> None:
    battle.transcript.ended = True


def new_battle(mode: str, left: str, right: str, customer: Customer | None = None) -> Battle:
    named = mode == NAMED
    return Battle("named" if named else "blind", (left, right) if named else None, customer=customer)


def restart(mode: str, left: str, right: str, battle: Battle) -> tuple[Any, ...]:
    """→ the battle, both dropdowns, four panes, the text box, the notice, the frame, the customers."""
    battle.leave()
    fresh = new_battle(mode, left, right)
    named = mode == NAMED
    return (
        fresh,
        gr.Dropdown(visible=named),
        gr.Dropdown(visible=named),
        *_panes(fresh),
        "",
        "",
        *_frame(fresh),
        None,
    )


def replay(
    found: Sequence[Customer], title: str | None, mode: str, left: str, right: str, battle: Battle
) -> tuple[Any, ...]:
    """A new battle with a customer from the test set → the battle, four panes, the text box, the notice, the frame."""
    battle.leave()
    customer = next((customer for customer in found if customer.title == title), None)
    fresh = new_battle(mode, left, right, customer)
    return fresh, *_panes(fresh), fresh.next_line, "", *_frame(fresh)


def build_arena_tab(page: gr.Blocks, models: ModelCache, store: VoteStore) -> None:
    battle = gr.State(Battle())
    arena = Arena(models, store)
    names = list(offered())
    defaults = default_pair(names)
    found = customers()
    dropdowns, chats, figures, headings = [], [], [], []
    with gr.Row(elem_id="setup"):
        mode = gr.Radio([BLIND, NAMED], value=BLIND, show_label=False, container=False, scale=0, min_width=330)
        customer = gr.Dropdown(
            [one.title for one in found],
            value=None,
            label="Replay a customer of the test set",
            info="Each message waits in the box below until you send it.",
            min_width=260,
        )
    with gr.Row(elem_id="sides"):
        for side, default in zip("AB", defaults, strict=True):
            with gr.Column(min_width=300):
                dropdowns.append(
                    gr.Dropdown(
                        [(label_of(name), name) for name in names],
                        value=default,
                        label=f"Contestant {side}",
                        elem_id=f"contestant-{side}",
                        visible=False,
                    )
                )
                headings.append(gr.HTML(f'<div class="side-name">Model {side}</div>', elem_id=f"name-{side}"))
                chats.append(
                    gr.Chatbot(
                        label=f"Chat with model {side}",
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
                figures.append(gr.HTML(to_figures([], named=False), elem_id=f"figures-{side}"))
    with gr.Row(elem_id="votes"):
        vote_buttons = [gr.Button(words, min_width=100, size="md", interactive=False) for _, words in CHOICES]
    verdict = gr.HTML(to_verdict(Battle()), elem_id="verdict")
    with gr.Column(elem_id="composer"):
        with gr.Row(elem_id="examples"):
            short = [one for one in found if len(one.lines[0]) <= 70]
            by_intent = list({one.intent: one for one in short}.values())[:_EXAMPLES]
            examples = [(gr.Button(one.lines[0], size="sm", min_width=0), one) for one in by_intent]
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
        notice = gr.HTML(elem_id="notice")
    with gr.Row(elem_id="after"):
        new_button = gr.Button("New battle", size="sm", min_width=0)
        again_button = gr.Button("Ask again", size="sm", min_width=0, interactive=False)
        link_button = gr.Button("Copy the link", size="sm", min_width=0, interactive=False)
    gr.HTML(
        '<p class="small">Both answer at the same time on this machine, so each slows the other down; times measured '
        "alone are in the leaderboard. What you write, the replies and your vote are stored, without your name.</p>",
    )

    panes = [*chats, *figures]
    frame = [*headings, *vote_buttons, verdict, again_button, link_button]
    assert len(frame) == _FRAMED
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    # No limit here: who has to wait waits in `answer_both`, where it is said in words and Stop works.
    talked = [*panes, box, notice, *frame]
    sending = gr.on(
        [send_button.click, box.submit],
        arena.send,
        [box, battle],
        talked,
        concurrency_limit=None,
        **quiet,
    )
    sending.then(give_back, [box, battle], box, **quiet)
    again_button.click(arena.again, battle, talked, concurrency_limit=None, **quiet).then(
        give_back, [box, battle], box, **quiet
    )
    stop_button.click(stop, battle, None, queue=False, **quiet)
    for button, (choice, _) in zip(vote_buttons, CHOICES, strict=True):
        button.click(arena.vote, [gr.State(choice), battle], [*panes, notice, *frame], concurrency_limit=None, **quiet)
    gr.on(
        [new_button.click, mode.input, *(dropdown.input for dropdown in dropdowns)],
        restart,
        [mode, *dropdowns, battle],
        [battle, *dropdowns, *panes, box, notice, *frame, customer],
        queue=False,
        **quiet,
    )
    replayed = [battle, *panes, box, notice, *frame]
    customer.input(partial(replay, found), [customer, mode, *dropdowns, battle], replayed, queue=False, **quiet)
    for button, one in examples:
        picked = gr.State(one.title)
        button.click(partial(replay, found), [picked, mode, *dropdowns, battle], replayed, queue=False, **quiet)
    link = gr.State("")
    link_button.click(lambda battle: battle.id, battle, link, queue=False, **quiet).then(
        None, link, None, js=COPY_LINK, api_visibility="private"
    )
    page.load(arena.first_shown, None, [*dropdowns, battle, *panes, notice, *frame], queue=False, **quiet)
    page.load(arena.warm, None, None, queue=False, **quiet)
