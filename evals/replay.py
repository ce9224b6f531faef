"""The same multi-turn queries to every contestant → `predictions/<contestant>.jsonl`.

With the reference history each model answers each turn after the reference replies to the earlier
ones, so all see the same thing. Free-running, a model lives with what it said itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from distiller.answer import CompletionStore
from distiller.chat import ChatModel, OpenOptions, Sampling, open_model
from distiller.generate import Answered, converse, count_turns
from distiller.progress import Progress
from distiller.runs import runs_folder
from distiller.schema import Conversation, Prediction, read_jsonl, write_jsonl
from evals.contestants import Contestant


def replay(
    contestant: Contestant,
    data: Sequence[Conversation],
    path: Path,
    *,
    sampling: Sampling,
    free_running: bool,
    options: OpenOptions,
    progress: Progress,
    system_prompt: str | None = None,
) -> list[Prediction]:
    """Predictions for every turn, in the order of the data. A complete file is read, not made again."""
    wanted = [(c.id, t.index) for c in data for t in c.turns()]
    stored = [Prediction.model_validate(row) for row in read_jsonl(path)]
    if [(p.conversation, p.turn) for p in stored] == wanted:
        return stored
    model = open_model(contestant.name, options)
    answered = asyncio.run(_answer(model, contestant, data, sampling, free_running, progress, system_prompt))
    predictions = [
        Prediction(conversation=item.conversation.id, turn=t, completion=completion)
        for item in answered
        for t, completion in enumerate(item.completions)
    ]
    write_jsonl(path, predictions)
    return predictions


async def _answer(
    model: ChatModel,
    contestant: Contestant,
    data: Sequence[Conversation],
    sampling: Sampling,
    free_running: bool,
    progress: Progress,
    system_prompt: str | None,
) -> list[Answered]:
    store = CompletionStore(runs_folder() / "completions.sqlite")
    name = contestant.role or contestant.name.rsplit("/", 1)[-1][-32:]
    label = f"{name} answers" + (" freely" if free_running else "")
    try:
        with progress.track(label, count_turns(data), "replies") as tracker:
            return await converse(
                model,
                data,
                contestant.prompting(system_prompt),
                sampling,
                store,
                own_history=free_running,
                tracker=tracker,
            )
    finally:
        store.close()
        await model.aclose()
