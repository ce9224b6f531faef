"""Hand edits of the teacher's replies: a file that only grows, one line an edit.

    {"split": "train", "conversation": "c7", "turn": 0, "action": "replace", "reply": "…", "time": "…"}

The last edit of a turn counts. Edits are laid over what the filters of `curate` decided: one changes its own
turn and no other, save that later turns have an edited reply in their history. The test set is never edited.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from distiller.errors import DataError, RunError
from distiller.job import DistillationJob, parse_job
from distiller.runs import Run, now
from distiller.schema import Conversation, drop_torn_line, read_conversations, to_line, write_text

Split = Literal["train", "validation"]
#: A conversation and a turn of it, counted from 0.
Place = tuple[str, int]
SPLITS: tuple[Split, ...] = ("train", "validation")
#: Where a run keeps the edits that it was made with, and those that wait for another run.
APPLIED, WAITING = ("data", "edits.jsonl"), ("edits.jsonl",)


class Edit(BaseModel):
    """What a person decided about one reply."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    #: Needed only where training and validation data share an id.
    split: Split | None = None
    conversation: str = Field(min_length=1)
    turn: int = Field(ge=0)
    #: replace: `reply` is learnt instead; drop: nothing is; keep: the teacher's reply is, whatever the filters say;
    #: undo: what the filters say counts again.
    action: Literal["replace", "drop", "keep", "undo"]
    reply: str | None = None
    time: str = Field(default_factory=now)

    @model_validator(mode="after")
    def _reply_where_replaced(self) -> Edit:
        if self.action == "replace" and not (self.reply or "").strip():
            raise ValueError("replace needs a reply with some text; to learn nothing from this turn, use drop")
        if self.action != "replace" and self.reply is not None:
            raise ValueError(f"{self.action} takes no reply; to learn another text, use replace")
        return self


def read_edits(path: Path) -> list[Edit]:
    """In the order of the file. A last line that a killed process left unfinished is left out. Raises DataError."""
    try:
        lines = path.read_bytes().decode("utf-8").split("\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}). Check the path.") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}. Save it as UTF-8.") from None
    edits = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            edits.append(Edit.model_validate(json.loads(line)))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            reason = first["msg"].removeprefix("Value error, ")
            raise DataError(f"{path}:{number}: {f'{where}: ' if where else ''}{reason}") from None
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                break
            raise DataError(f"{path}:{number}: not JSON: {error}") from None
    return edits


def append_edit(path: Path, edit: Edit) -> None:
    """Raises DataError where the file cannot be written."""
    try:
        drop_torn_line(path)
        with path.open("a", encoding="utf-8") as file:
            file.write(_line(edit))
    except OSError as error:
        raise DataError(f"{path}: the edit cannot be saved ({error.strerror or error}).") from None


def turn_counts(conversations: Sequence[Conversation]) -> dict[str, int]:
    """Turns by conversation."""
    return {conversation.id: len(conversation.turns()) for conversation in conversations}


def latest(edits: Sequence[Edit], turns: Mapping[str, Mapping[str, int]]) -> dict[Split, dict[Place, Edit]]:
    """For each split the last edit of each place, its split filled in.

    `turns`: for each split, and for `test` where there is one, its `turn_counts`. Raises DataError for an edit
    that fits no turn, or two.
    """
    found: dict[Split, dict[Place, Edit]] = {split: {} for split in SPLITS}
    for edit in edits:
        name, where = edit.conversation, f"the edit of turn {edit.turn} of conversation {edit.conversation!r}"
        homes = [split for split in SPLITS if edit.split in {None, split} and name in turns.get(split, ())]
        if not homes:
            if name in turns.get("test", ()):
                raise DataError(f"{where}: it is in the test data, which is never edited. Take the edit out.")
            looked = edit.split or " and ".join(SPLITS)
            raise DataError(
                f"{where}: there is no such conversation among those taken of the {looked} data. "
                "Take the edit out, or correct its conversation."
            )
        if len(homes) > 1:
            raise DataError(f'{where}: {" and ".join(homes)} both have it. Add "split": "{homes[0]}" to the edit.')
        [split] = homes
        if edit.turn >= turns[split][name]:
            last = turns[split][name] - 1
            raise DataError(f"{where}: there is no such turn; they are counted from 0, and the last one is {last}.")
        found[split][name, edit.turn] = edit.model_copy(update={"split": split})
    return found


def by_turn(edits: Sequence[Edit], turns: Mapping[str, Mapping[str, int]]) -> dict[Split, dict[Place, Edit]]:
    """`latest`, without what was taken back: the edits that count."""
    found = latest(edits, turns)
    return {split: {place: edit for place, edit in found[split].items() if edit.action != "undo"} for split in found}


def again(run: Run, edits: Sequence[Edit]) -> DistillationJob:
    """The job of a new run: `run`'s, with `edits` on top of those it was made with.

    They are copied into the old run's folder under the hash of their content, so that `python -m distiller run`
    makes the new run again at any time. Raises RunError, DataError, JobError.
    """
    if "generate" not in run.state:
        raise RunError(f"Run {run.id} has not got all of the teacher's replies yet. Wait for it, then train again.")
    files = {split: run.path("data", f"{split}.jsonl") for split in (*SPLITS, "test")}
    turns = {split: turn_counts(read_conversations(path)) for split, path in files.items() if path.exists()}
    before = read_edits(run.path(*APPLIED)) if run.path(*APPLIED).exists() else []
    counted = by_turn([*before, *edits], turns)
    chosen = [edit for split in SPLITS for _, edit in sorted(counted[split].items())]
    text = "".join(map(_line, chosen))
    path = run.path(f"edits-{hashlib.sha256(text.encode()).hexdigest()[:8]}.jsonl")
    value: dict[str, Any] = run.job.model_dump(mode="json")
    value["curation"]["edits"] = str(path) if chosen else None
    if chosen:
        write_text(path, text)
    return parse_job(value, f"the job of run {run.id}")


def _line(edit: Edit) -> str:
    return to_line(edit.model_dump(mode="json", exclude_none=True))
