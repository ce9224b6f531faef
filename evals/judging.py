"""Automatic battles: a model judges two models' replies, or what people voted on in the arena.

    report, data and predictions, or stored votes → comparisons → the judge → votes database, judge.json, the report

Verdicts are kept as they come (`distiller.answer`), and a battle has an id made from what was judged: a killed
command goes on where it stopped, and the same command twice stores nothing twice.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distiller.answer import CompletionStore
from distiller.chat import ChatModel, OpenOptions, Sampling, open_model
from distiller.errors import DataError, RunError
from distiller.job import DistillationJob, TeacherPrice
from distiller.judge import Comparison, Judgement, count_stored, judge, prompt, requests
from distiller.progress import Progress
from distiller.prompting import teacher_prompting
from distiller.runs import file_hash, now, runs_folder
from distiller.sampling import stratified
from distiller.schema import Conversation, Message, Prediction, history, read_conversations, read_jsonl, text_hash
from distiller.schema import Turn as ConversationTurn
from distiller.work import locked
from evals import judged
from evals.battles import Only, Reply, Side, Turn
from evals.compare import only_of_their_role
from evals.report import write_report
from evals.scoring import items_of

if TYPE_CHECKING:
    from evals.votes import VoteStore

#: Of a report's models, the pairs that are judged unless another is named.
DEFAULT_PAIRS = (("student", "baseline"), ("student", "teacher"))
MAX_TOKENS = 400
#: `data_set` of the automatic battles that repeat a battle of the arena; their `conversation` is its id.
ARENA = "arena"

Replies = Mapping[tuple[str, int], str]
"""(conversation, turn from 0) → the reply."""


@dataclass(frozen=True)
class Judge:
    """Who judges, and how. `price` is its API's, for the cost."""

    name: str
    options: OpenOptions = field(default_factory=OpenOptions)
    max_tokens: int = MAX_TOKENS
    price: TeacherPrice | None = None

    @property
    def sampling(self) -> Sampling:
        return Sampling(max_tokens=self.max_tokens)


@dataclass(frozen=True)
class Case:
    """One battle to be judged: `turns` as the votes database keeps them, the rest says where it is from."""

    comparison: Comparison
    turns: tuple[Turn, ...]
    data_set: str
    conversation: str
    turn: int
    intent: str | None


def judge_report(
    folder: Path,
    by: Judge,
    votes: VoteStore,
    *,
    pair: tuple[str, str] | None = None,
    limit: int = 0,
    job: DistillationJob | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Judges pairs of models of the report in `folder` and writes judge.json and the report's section; the section.

    `pair`: two models or roles of the report. `limit`: conversations, by equal shares of their intents. The judge
    sees the policy lines that `job` gives its teacher. Raises DataError, RunError, ModelError, RequestError.
    """
    path = folder / "report.json"
    if not path.exists():
        raise RunError(f"{folder} has no report.json. Make one first: python -m evals run --run ID")
    report = json.loads(path.read_text("utf-8"))
    data = stratified(_data_of(report, folder), limit, 0)
    said: dict[str, Replies] = {
        row["model"]: {
            (t["conversation"], t["turn"] - 1): t["replies"][row["model"]]["text"] for t in report["conversations"]
        }
        for row in report["rows"]
    }
    pairs = [_named(report, pair)] if pair else _default_pairs(report)
    with locked(folder):
        rows = _judge_pairs(by, data, said, pairs, votes, job, report["data"]["file"], quiet)
        for row in rows:
            row["replies"] = {name: judged.replies_hash(report, name) for name in (row["a"], row["b"])}
        judged.keep(folder, rows)
        write_report(report, folder)
    return judged.section(report, folder) or {"rows": [], "agreement": []}


def judge_predictions(
    files: tuple[Path, Path],
    data_file: Path,
    out: Path,
    by: Judge,
    votes: VoteStore,
    *,
    limit: int = 0,
    job: DistillationJob | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Judges two predictions files on the turns that both answer, and writes `out`/judge.json; its rows as a section.

    A model is named after its file. Replies that followed the model's own earlier ones (`*.free.jsonl`) are shown with
    those. Raises DataError for files that share no turn of the data, or of which only one is such a file.
    """
    names = tuple(_name_of(path, files) for path in files)
    free = [path.stem.endswith(".free") for path in files]
    if free[0] != free[1]:
        raise DataError(
            f"{files[free.index(True)]} follows the model's own earlier replies and {files[free.index(False)]} the references: "
            "their turns cannot be compared. Give two files of one kind."
        )
    said = {name: _predictions(path) for name, path in zip(names, files, strict=True)}
    data = stratified(read_conversations(data_file), limit, 0)
    with locked(out):
        rows = _judge_pairs(by, data, said, [(names[0], names[1])], votes, job, data_file.name, quiet, free[0])
        judged.keep(out, rows)
    return {"rows": judged.adjusted(rows), "agreement": []}


def judge_votes(
    by: Judge, votes: VoteStore, *, limit: int = 0, job: DistillationJob | None = None, quiet: bool = False
) -> dict[str, Any]:
    """Judges the battles of people's counted votes, the newest `limit` of them (0: all), and writes how far judge
    and people agree; that row. Raises DataError where there is no such vote."""
    table = votes.votes_table(Only(counted=True), limit=limit or None).sort_values("number")
    if table.empty:
        raise DataError("No votes of people to compare with yet. They are cast in the arena: python app.py")
    people = table.to_dict("records")
    talks: list[Conversation] = []
    said_a: dict[tuple[str, int], str] = {}
    said_b: dict[tuple[str, int], str] = {}
    for vote in people:
        seen = votes.battle(vote["battle"]).turns[: vote["turns"]]
        asked = [Message(role="user", content=turn.query) for turn in seen]
        metadata = {"intent": vote["intent"]} if vote["intent"] else {}
        talks.append(Conversation(id=vote["battle"], messages=asked, metadata=metadata))
        for index, turn in enumerate(seen):
            said_a[vote["battle"], index], said_b[vote["battle"], index] = turn.a.text, turn.b.text
    last = {(vote["battle"], vote["turns"] - 1) for vote in people}
    with locked(judged.votes_folder()):
        # A vote is on the whole talk: its last turn's case shows all of it, both sides' own words in it.
        cases = [c for c in _cases(talks, said_a, said_b, ARENA, job) if (c.conversation, c.turn) in last]
        sides = [(vote["model_a"], vote["model_b"]) for vote in people]
        judgements, figures = _ask(by, cases, sides, votes, "the battles people voted on", quiet)
        visitors = [vote["visitor"] for vote in people]
        row = figures | judged.agreement([vote["choice"] for vote in people], judgements, visitors)
        row["verdicts"] = _verdicts(cases, judgements)
        judged.keep(judged.votes_folder(), agreements=[row])
    return row


def _judge_pairs(
    by: Judge,
    data: Sequence[Conversation],
    said: Mapping[str, Replies],
    pairs: Sequence[tuple[str, str]],
    votes: VoteStore,
    job: DistillationJob | None,
    data_set: str,
    quiet: bool,
    own_history: bool = False,
) -> list[dict[str, Any]]:
    rows = []
    for a, b in pairs:
        cases = _cases(data, said[a], said[b], data_set, job, own_history)
        if not cases:
            raise DataError(f"{a} and {b} have no turn of {data_set} in common. Name the data they answered.")
        judgements, figures = _ask(by, cases, [(a, b)] * len(cases), votes, f"{_end(a)} against {_end(b)}", quiet)
        row = judged.tally(judgements, [case.conversation for case in cases])
        row |= {"a": a, "b": b, "own": by.name in {a, b}, "verdicts": _verdicts(cases, judgements)}
        rows.append(figures | row)
    return rows


def _cases(
    data: Sequence[Conversation],
    a: Replies,
    b: Replies,
    data_set: str,
    job: DistillationJob | None,
    own_history: bool = False,
) -> list[Case]:
    """A case for each turn that both sides answered. `own_history`: each after its own earlier replies."""
    policy = teacher_prompting(job).reference_policies(data) if job else [[""] * len(c.turns()) for c in data]
    by_turn = {(c.id, t): text for c, texts in zip(data, policy, strict=True) for t, text in enumerate(texts)}
    cases = []
    for item in items_of(data):
        turns, t, name = item.conversation.turns(), item.turn.index, item.conversation.id
        # Where each side lived with its own words the talks are shown apart: from the first turn without a reference on.
        start = 0 if own_history else next((turn.index for turn in turns[:t] if turn.reference is None), t)
        shown = range(start, t + 1)
        if any((name, u) not in side for side in (a, b) for u in shown):
            continue
        references = [turn.reference or "" for turn in turns]
        lines = dict.fromkeys(line for u in shown for line in by_turn[name, u].splitlines())
        comparison = Comparison(
            context=tuple(history(turns, references, start, item.conversation.system)),
            a=_side(turns, [a[name, u] for u in shown], start),
            b=_side(turns, [b[name, u] for u in shown], start),
            reference=item.turn.reference,
            facts=tuple(fact for u in shown for fact in turns[u].facts),
            forbidden=tuple(fact for u in shown for fact in turns[u].forbidden),
            policy="\n".join(lines),
        )
        kept = tuple(Turn(turns[u].query, Reply(a[name, u]), Reply(b[name, u])) for u in shown)
        cases.append(Case(comparison, kept, data_set, name, t, item.conversation.intent))
    return cases


def _side(turns: Sequence[ConversationTurn], replies: Sequence[str], start: int) -> tuple[Message, ...]:
    said: list[Message] = []
    for turn, reply in zip(turns[start:], replies, strict=False):
        said += [*(turn.context if turn.index > start else ()), Message(role="assistant", content=reply)]
    return tuple(said)


def _ask(
    by: Judge, cases: Sequence[Case], sides: Sequence[tuple[str, str]], votes: VoteStore, label: str, quiet: bool
) -> tuple[list[Judgement], dict[str, Any]]:
    """The judgements, stored as automatic battles; and what they cost."""
    comparisons = [case.comparison for case in cases]
    model = open_model(by.name, by.options)
    store = CompletionStore(runs_folder() / "completions.sqlite")
    asked = requests(comparisons, by.sampling)
    stored = count_stored(model, asked, store)
    started = time.monotonic()
    try:
        judgements = asyncio.run(_judge(model, comparisons, store, by.sampling, f"Judging {label}", len(asked), quiet))
    finally:
        store.close()
    seconds = time.monotonic() - started
    for case, pair, judgement in zip(cases, sides, judgements, strict=True):
        _store(votes, model.identity, by, case, pair, judgement)
    said = [completion for judgement in judgements for completion in judgement.completions]
    read = sum(completion.prompt_tokens or 0 for completion in said)
    written = sum(completion.completion_tokens or 0 for completion in said)
    usd = by.price and (read * by.price.input_per_million + written * by.price.output_per_million) / 1e6
    figures = {"judge": by.name, "identity": model.identity, "created": now(), "max_tokens": by.max_tokens}
    figures |= {"calls": len(asked), "stored": stored, "prompt_tokens": read, "completion_tokens": written}
    return judgements, figures | {"seconds": round(seconds, 2), "usd": usd}


async def _judge(
    model: ChatModel,
    comparisons: Sequence[Comparison],
    store: CompletionStore,
    sampling: Sampling,
    label: str,
    calls: int,
    quiet: bool,
) -> list[Judgement]:
    try:
        with Progress(quiet=quiet).track(label, calls, "verdicts") as tracker:
            return await judge(model, comparisons, store, sampling, tracker)
    finally:
        await model.aclose()


def _store(votes: VoteStore, identity: str, by: Judge, case: Case, pair: tuple[str, str], judgement: Judgement) -> None:
    """The battle in the votes database, once, whichever of the two was named first. Without a verdict there is none."""
    verdict = judgement.verdict
    if verdict is None:
        return
    (a, b), turns, comparison = pair, case.turns, case.comparison
    swapped = b < a
    if swapped:
        a, b, verdict = b, a, {"a": "b", "b": "a", "tie": "tie"}[verdict]  # type: ignore[assignment]
        turns = tuple(Turn(turn.query, turn.b, turn.a) for turn in turns)
    said = "".join(message.model_dump_json() for message in prompt(comparison, swapped=swapped))
    parts = (identity, str(by.max_tokens), a, b, case.data_set, case.conversation, str(case.turn), said)
    votes.add_judged(
        text_hash(*parts)[:32],
        Side(a),
        Side(b),
        turns,
        verdict,
        judge=by.name,
        data_set=case.data_set,
        conversation=case.conversation,
        intent=case.intent,
    )


def _verdicts(cases: Sequence[Case], judgements: Sequence[Judgement]) -> list[dict[str, Any]]:
    """Every battle with what the judge said, to be read: `first` and `second` as in `Judgement`."""
    return [
        {
            "conversation": case.conversation,
            "turn": case.turn + 1,
            "verdict": judgement.verdict,
            "first": judgement.first,
            "second": judgement.second,
            "said": [completion.text for completion in judgement.completions],
        }
        for case, judgement in zip(cases, judgements, strict=True)
    ]


def _data_of(report: dict[str, Any], folder: Path) -> list[Conversation]:
    """The conversations that the report is on: a run keeps them in a folder of their own."""
    name, sha256 = report["data"]["file"], report["data"]["sha256"]
    path = next((path for path in (folder / "data" / name, folder / name) if path.exists()), None)
    if path is None or file_hash(path) != sha256:
        raise DataError(
            f"The conversations of {folder / 'report.json'} ({name}, sha256 {sha256[:12]}) are no longer in {folder}. "
            "Evaluate again: python -m evals run"
        )
    return read_conversations(path)


def _default_pairs(report: dict[str, Any]) -> list[tuple[str, str]]:
    by_role = only_of_their_role(report["rows"])
    pairs = [(by_role[a]["model"], by_role[b]["model"]) for a, b in DEFAULT_PAIRS if {a, b} <= by_role.keys()]
    models = [row["model"] for row in report["rows"]]
    if not pairs and len(models) == 2:
        pairs = [(models[0], models[1])]
    if not pairs:
        raise DataError(f"Name the two models to compare: --pair A B. The report has: {', '.join(models)}.")
    return pairs


def _named(report: dict[str, Any], pair: tuple[str, str]) -> tuple[str, str]:
    models = [row["model"] for row in report["rows"]]
    by_role = only_of_their_role(report["rows"])
    found = [by_role[name]["model"] if name in by_role else name for name in pair]
    for name in found:
        if name not in models:
            raise DataError(f"{name!r} is not in the report; there are: {', '.join([*by_role, *models])}.")
    if found[0] == found[1]:
        raise DataError(f"{pair[0]} and {pair[1]} are one model: there is nothing to compare.")
    return found[0], found[1]


def _name_of(path: Path, files: tuple[Path, Path]) -> str:
    """Its file's name, or the whole path where both files are called the same."""
    return path.stem if files[0].stem != files[1].stem else str(path)


def _predictions(path: Path) -> dict[tuple[str, int], str]:
    from pydantic import ValidationError

    try:
        found = [Prediction.model_validate(row) for row in read_jsonl(path)]
    except (ValueError, ValidationError):
        found = []
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from None
    if not found:
        raise DataError(
            f"{path}: holds no predictions. Expected a file that `python -m evals run` left in predictions/."
        )
    return {(p.conversation, p.turn): p.completion.text for p in found}


def _end(model: str) -> str:
    return model.rsplit("/", 1)[-1][-32:]
