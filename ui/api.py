"""The endpoints for programs: chat, battle, vote, leaderboard, evaluate; by gradio_client, by HTTP, and as MCP tools.

Names, types and docstrings are what gr.api shows to a caller, so this module keeps real annotations
(no `from __future__ import annotations`), and its docstrings have Gradio's form.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import gradio as gr
from pydantic import ValidationError

from distiller.chat import ChatRequest, Sampling
from distiller.embedding import DEFAULT
from distiller.errors import DataError, DistillerError
from distiller.schema import Conversation, Message
from distiller.tasks import TASKS
from evals.battles import Choice, Source
from evals.leaderboard import newest_board, with_votes
from evals.live_ratings import LiveRatings
from evals.metrics import Similarity
from evals.scoring import items_of, score_replies, summary
from evals.votes import VoteStore
from ui import battle as battles
from ui.access import RateLimit, Visitor, may_see, may_see_model, visitor_of
from ui.battle import Battle
from ui.exchange import SAMPLING, answer_both, problem_with
from ui.models import ModelCache, blind_pool, default_pair, label_of, offered

MAX_TURNS = 20  # of one call of evaluate; more are for the command line
MAX_BATTLES = 1_000  # kept open for callers; the oldest is forgotten first


@dataclass
class Api:
    models: ModelCache
    store: VoteStore
    ratings: LiveRatings
    limit: RateLimit = field(default_factory=lambda: RateLimit("calls", times=30))
    _open: OrderedDict[str, Battle] = field(default_factory=OrderedDict)

    async def chat(
        self, message: str, request: gr.Request, model: str = "", history: list[dict[str, str]] | None = None
    ) -> dict[str, Any]:
        """One reply of a model to a customer's message.

        Args:
            message: what the customer says, at most 2,000 characters
            model: a name that `leaderboard` shows, such as run:quickstart-e8a738cb/student; empty for the newest student
            history: earlier messages, [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]

        Returns:
            the reply, its model, latency_s, ttft_s and tokens
        """
        visitor = self._admit(request)
        _checked(message)
        name = model or default_pair(list(offered(visitor)))[0]
        if name not in offered(visitor):
            raise _refused(f"There is no model {name!r} here. There are: {', '.join(offered(visitor))}.")
        past = _messages(history or [])
        try:
            async with self.models.seats, self.models.lease(name) as opened:
                seen = await opened.messages(past, message)
                [completion] = await opened.model.complete([ChatRequest(messages=seen, sampling=SAMPLING)])
        except DistillerError as error:
            raise _refused(str(error)) from None
        return {
            "reply": completion.text,
            "model": name,
            "latency_s": completion.latency_s,
            "ttft_s": completion.ttft_s,
            "tokens": completion.completion_tokens,
        }

    async def battle(self, query: str, request: gr.Request, battle_id: str = "", token: str = "") -> dict[str, Any]:
        """Two anonymous models answer the same customer; call it again with its id and token for the next turn.

        Args:
            query: what the customer says, at most 2,000 characters
            battle_id: of a battle to go on with; empty for a new one
            token: the one that came with it

        Returns:
            battle_id, the one-time token for `vote`, reply_a and reply_b
        """
        visitor = self._admit(request)
        _checked(query)
        try:
            going = self._going(battle_id, token) if battle_id else Battle()
            pair = await asyncio.to_thread(battles.begin, going, blind_pool)
            async with aclosing(cast(Any, answer_both(self.models, pair, going.transcript, query))) as talking:
                async for _ in talking:
                    pass
            await asyncio.to_thread(battles.record, going, self.store, visitor.id, _source(request))
            self._open[going.id] = going
            while len(self._open) > MAX_BATTLES:
                self._open.popitem(last=False)
        except DistillerError as error:
            raise _refused(str(error)) from None
        a, b = going.transcript.last
        return {
            "battle_id": going.id,
            "token": going.token,
            "reply_a": a.reply or f"[{a.error}]",
            "reply_b": b.reply or f"[{b.error}]",
        }

    def vote(
        self, battle_id: str, token: str, choice: Literal["a", "b", "tie", "both_bad"], request: gr.Request
    ) -> dict[str, Any]:
        """Votes on a battle, once, and learns who it was between. Such votes are kept apart from people's.

        Args:
            battle_id: as `battle` gave it
            token: as `battle` gave it
            choice: a, b, tie or both_bad

        Returns:
            the names of both models and the latency of their last replies
        """
        visitor = self._admit(request)
        try:
            going = self._going(battle_id, token)
            battles.cast(going, cast(Choice, choice), self.store, visitor.id, _source(request))
        except DistillerError as error:
            raise _refused(str(error)) from None
        assert going.pair is not None
        del self._open[battle_id]
        a, b = going.transcript.last
        return {
            "model_a": going.pair[0],
            "model_b": going.pair[1],
            "label_a": label_of(going.pair[0]),
            "label_b": label_of(going.pair[1]),
            "latency_a_s": a.latency_s,
            "latency_b_s": b.latency_s,
        }

    def leaderboard(self, request: gr.Request) -> list[dict[str, Any]]:
        """Automatic scores on the newest data set and people's votes, of every model, with 95% intervals; the best first.

        Returns:
            one row a model: accuracy, BLEU, embedding similarity, latency, memory, cost and their intervals; of the votes
            rating, rating_ci, win_rate, win_rate_ci, votes and vote_rank; null where unknown
        """
        visitor = self._admit(request)
        try:
            board = newest_board(visible=may_see(visitor))
            return with_votes(board.rows() if board else [], self.ratings.rows(shown=may_see_model(visitor)))
        except DistillerError as error:
            raise _refused(str(error)) from None

    async def evaluate(
        self, conversations: list[dict[str, Any]], request: gr.Request, model: str = ""
    ) -> dict[str, Any]:
        """A model answers your conversations and is scored against their reference replies and facts.

        Args:
            conversations: [{"id": "1", "messages": [{"role": "user", ...}, {"role": "assistant", ...}]}], 20 turns at most
            model: a name that `leaderboard` shows; empty for the newest student

        Returns:
            scores with 95% intervals, and each reply with what is wrong about it
        """
        visitor = self._admit(request)
        data = _conversations(conversations)
        name = model or default_pair(list(offered(visitor)))[0]
        if name not in offered(visitor):
            raise _refused(f"There is no model {name!r} here. There are: {', '.join(offered(visitor))}.")
        items, replies = items_of(data), []
        try:
            async with self.models.seats, self.models.lease(name) as opened:
                for item in items:
                    past: list[Message] = []
                    for turn in item.conversation.turns()[: item.turn.index]:
                        past += [*turn.context, Message(role="assistant", content=turn.reference or "")]
                    seen = await opened.messages(past, item.turn.query)
                    [completion] = await opened.model.complete(
                        [ChatRequest(messages=seen, sampling=Sampling(max_tokens=128))]
                    )
                    replies.append(completion.text)
        except DistillerError as error:
            raise _refused(str(error)) from None
        scorer = TASKS["conversation"].scorer(data, ())
        scored = await asyncio.to_thread(score_replies, items, replies, scorer, Similarity(DEFAULT), None)
        return {
            "model": name,
            "scores": {key: value for key, value in summary(items, scored).items()},
            "turns": [
                {
                    "conversation": item.conversation.id,
                    "turn": item.turn.index + 1,
                    "reply": reply,
                    "correct": score.correct,
                    "missing": score.missing,
                    "forbidden": score.forbidden,
                }
                for item, reply, score in zip(items, replies, scored.scores, strict=True)
            ],
        }

    def _admit(self, request: gr.Request) -> Visitor:
        visitor = visitor_of(request)
        try:
            self.limit.check(visitor)
        except DistillerError as error:
            raise _refused(str(error)) from None
        return visitor

    def _going(self, battle_id: str, token: str) -> Battle:
        going = self._open.get(battle_id)
        if going is None or going.token != token:
            raise DataError("There is no such open battle, or its token is another. Begin one: battle(query).")
        return going


def endpoints(api: Api) -> dict[str, Callable[..., Any]]:
    """Name → what is called, in the order of the documentation."""
    return {
        "chat": api.chat,
        "battle": api.battle,
        "vote": api.vote,
        "leaderboard": api.leaderboard,
        "evaluate": api.evaluate,
    }


def build_api(models: ModelCache, store: VoteStore, ratings: LiveRatings) -> None:
    for name, function in endpoints(Api(models, store, ratings)).items():
        gr.api(function, api_name=name, concurrency_limit=None)


def _refused(words: str) -> gr.Error:
    """What the caller did: it belongs in the answer, not as a traceback in the log."""
    return gr.Error(words, print_exception=False)


def _checked(query: str) -> None:
    if problem := problem_with(query):
        raise _refused(problem)


def _messages(history: list[dict[str, str]]) -> list[Message]:
    try:
        return [Message.model_validate(message) for message in history]
    except ValidationError:
        raise _refused('history: expected [{"role": "user" or "assistant", "content": "text"}, ...].') from None


def _conversations(given: list[dict[str, Any]]) -> list[Conversation]:
    try:
        data = [Conversation.model_validate({"id": str(k)} | value) for k, value in enumerate(given)]
    except (ValidationError, TypeError) as error:
        raise _refused(
            f'conversations: expected [{{"messages": [{{"role", "content"}}, ...]}}, ...]: {error}'
        ) from None
    turns = sum(len(conversation.turns()) for conversation in data)
    if not 0 < turns <= MAX_TURNS:
        raise _refused(
            f"conversations: {turns} customer turns; 1 to {MAX_TURNS} in a call. For more: python -m evals run."
        )
    return data


def _source(request: gr.Request) -> Source:
    """MCP tools are called by a client of the server's own, which says so."""
    by_mcp = request.headers.get("x-gradio-user") == "mcp" or "/mcp" in str(request.url)
    return "mcp" if by_mcp else "api"
