"""Stage 1: the teacher answers every user turn, with its own earlier replies as history.

Conversations go in blocks; within a block all first turns are asked, then all second turns, and so
on, so that a local model has full batches and an API full concurrency. Each finished conversation is
appended to `synthetic.<split>.jsonl`; single replies are safe in the completion store before that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from distiller.answer import CompletionStore, answer
from distiller.chat.base import ChatModel, ChatRequest, Sampling
from distiller.progress import Tracker
from distiller.prompting import Prompting
from distiller.schema import (
    Completion,
    Conversation,
    Message,
    drop_torn_line,
    history,
    read_jsonl,
    to_line,
    write_jsonl,
)
from distiller.tasks import TASKS

BLOCK = 128


@dataclass
class Answered:
    """One conversation with the model's replies: by turn the text, the completion behind it, the policy text seen."""

    conversation: Conversation
    replies: list[str] = field(default_factory=list)
    completions: list[Completion] = field(default_factory=list)
    policy: list[str] = field(default_factory=list)


async def converse(
    model: ChatModel,
    conversations: Sequence[Conversation],
    prompting: Prompting,
    sampling: Sampling,
    store: CompletionStore,
    *,
    own_history: bool,
    tracker: Tracker | None = None,
    on_answered: Callable[[Answered], None] | None = None,
) -> list[Answered]:
    """Every turn of every conversation, answered.

    `own_history` True: the model's own earlier replies stand in the history (free-running); False: the
    references do. `on_answered` is called as each conversation is complete.
    """
    done: list[Answered] = []
    for start in range(0, len(conversations), BLOCK):
        block = [Answered(conversation) for conversation in conversations[start : start + BLOCK]]
        turns = [item.conversation.turns() for item in block]
        for t in range(max(map(len, turns))):
            present = [k for k in range(len(block)) if t < len(turns[k])]
            earlier = [
                block[k].replies
                if own_history
                else [turn.reference or block[k].replies[turn.index] for turn in turns[k][:t]]
                for k in present
            ]
            bare = [history(turns[k], replies, t, None) for k, replies in zip(present, earlier, strict=True)]
            ids = [block[k].conversation.id for k in present]
            for k, text in zip(present, prompting.policy_texts(bare, ids), strict=True):
                block[k].policy.append(text)
            requests = [
                ChatRequest(
                    messages=prompting.messages(turns[k], replies, t, block[k].policy, block[k].conversation.system),
                    sampling=sampling,
                )
                for k, replies in zip(present, earlier, strict=True)
            ]
            completions = await answer(model, requests, store, tracker=tracker)
            for k, completion in zip(present, completions, strict=True):
                block[k].completions.append(completion)
                block[k].replies.append(TASKS[prompting.task].parse(completion.text))
                if on_answered and t == len(turns[k]) - 1:
                    on_answered(block[k])
        done += block
    return done


def count_turns(conversations: Sequence[Conversation]) -> int:
    return sum(len(conversation.turns()) for conversation in conversations)


def to_synthetic(item: Answered) -> Conversation:
    """The conversation with the teacher's replies. The references stay beside them, in the metadata."""
    turns = item.conversation.turns()
    messages = [Message(role="system", content=item.conversation.system)] if item.conversation.system else []
    for turn, reply in zip(turns, item.replies, strict=True):
        messages += [*turn.context, Message(role="assistant", content=reply)]
    metadata = item.conversation.metadata | {
        "references": [turn.reference for turn in turns],
        "policy": item.policy,
        "completions": [c.model_dump(exclude={"text", "top_logprobs"}, exclude_none=True) for c in item.completions],
    }
    return Conversation(id=item.conversation.id, messages=messages, metadata=metadata)


async def write_synthetic(
    model: ChatModel,
    conversations: Sequence[Conversation],
    prompting: Prompting,
    sampling: Sampling,
    store: CompletionStore,
    path: Path,
    tracker: Tracker | None = None,
    on_written: Callable[[Answered], None] | None = None,
) -> list[Conversation]:
    """Appends to `path` as conversations are finished; at the end the file is in the order of the data.

    `on_written` gets each one, also those that a stopped call has written before.
    """
    drop_torn_line(path)
    written = {row["id"] for row in read_jsonl(path)}
    with path.open("a", encoding="utf-8") as file:

        def append(item: Answered) -> None:
            if item.conversation.id not in written:
                file.write(to_line(to_synthetic(item)))
                file.flush()
            if on_written:
                on_written(item)

        # Conversations that are already in the file come from the store: no model is asked for them.
        answered = await converse(
            model,
            conversations,
            prompting,
            sampling,
            store,
            own_history=True,
            tracker=tracker,
            on_answered=append,
        )
    result = [to_synthetic(item) for item in answered]
    write_jsonl(path, result)
    return result
