"""Battles and votes, kept: who was compared, what was said, what a visitor chose.

Comes in: battles, turns, votes, reveals, reports, from many threads and processes at once. Goes out: one battle for
a share link, and a table with one row a vote, which `ratings` turns into a leaderboard. Nothing is ever changed or
deleted; `votes_tables` draws the tables. Every method that takes an id raises VoteError where it is unknown, and
every method does where the database cannot be reached.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast, get_args

from sqlalchemy import ColumnElement, func, insert, or_, select
from sqlalchemy.orm import Session

from distiller.errors import VoteError
from evals.battles import Battle, Choice, Mode, Only, Opened, Reply, Side, Source, Turn, Vote, WhyNot
from evals.database import Database, database_url
from evals.leaks import names_itself
from evals.mirror import Mirror, mirror_from_environment
from evals.votes_tables import BattleRow, ReportRow, RevealRow, Table, TurnRow, VoteRow

if TYPE_CHECKING:
    import pandas as pd

DAILY_VOTES = 200
DAY_S = 24 * 3600
MAX_REASON = 2_000  # characters
#: How a stored row and a column of `votes_table` are called.
_COLUMNS: dict[str, Any] = {
    "number": VoteRow.number,
    "created": VoteRow.created,
    "battle": VoteRow.battle,
    "visitor": VoteRow.visitor,
    "model_a": BattleRow.model_a,
    "model_b": BattleRow.model_b,
    "label_a": BattleRow.label_a,
    "label_b": BattleRow.label_b,
    "identity_a": BattleRow.identity_a,
    "identity_b": BattleRow.identity_b,
    "choice": VoteRow.choice,
    "intent": BattleRow.intent,
    "data_set": BattleRow.data_set,
    "conversation": BattleRow.conversation,
    "turns": VoteRow.turns_seen,
    "len_a": VoteRow.length_a,
    "len_b": VoteRow.length_b,
    "mode": BattleRow.mode,
    "source": VoteRow.source,
    "leak": VoteRow.leak,
    "after_reveal": VoteRow.after_reveal,
    "counted": VoteRow.counted,
    "why_not": VoteRow.why_not,
}


class VoteStore:
    def __init__(self, url: str | None = None, *, daily_votes: int = DAILY_VOTES, mirror: Mirror | None = None) -> None:
        """Opens the database at `url`, else at DATABASE_URL, else `arena.sqlite` in the runs folder.

        `daily_votes`: how many a visitor may cast within 24 hours. `mirror`: a second copy (by default a Hub
        dataset, where VOTES_DATASET names one); an empty database is filled from it. Raises VoteError.
        """
        self._database = Database(database_url(url))
        self._daily_votes = daily_votes
        self._mirror = mirror or mirror_from_environment()
        if self._mirror:
            self._restore(self._mirror)

    def open_battle(
        self,
        a: Side,
        b: Side,
        *,
        visitor: str,
        mode: Mode = "blind",
        source: Source = "page",
        data_set: str | None = None,
        conversation: str | None = None,
        intent: str | None = None,
    ) -> Opened:
        """`data_set`, `conversation` and `intent` say which example was used, if one was."""
        _one_of(mode, Mode, "mode")
        _one_of(source, Source, "source")
        token = secrets.token_urlsafe(24)
        row = BattleRow(
            id=secrets.token_urlsafe(12),
            created=time.time(),
            visitor=visitor,
            mode=mode,
            source=source,
            model_a=a.model,
            model_b=b.model,
            label_a=a.label or a.model,
            label_b=b.label or b.model,
            identity_a=a.identity,
            identity_b=b.identity,
            data_set=data_set,
            conversation=conversation,
            intent=intent,
            token_hash=_hash(token),
        )
        with self._database.writing() as session:
            session.add(row)
        self._mirrored(row)
        return Opened(row.id, token)

    def add_turn(self, battle_id: str, query: str, a: Reply, b: Reply) -> int:
        """The turn's index, from 0."""
        with self._database.writing(battle_id) as session:
            _battle_row(session, battle_id)
            index = session.scalar(select(func.count()).where(TurnRow.battle == battle_id)) or 0
            row = _turn_row(battle_id, index, time.time(), query, a, b)
            session.add(row)
        self._mirrored(row)
        return index

    def vote(
        self, battle_id: str, token: str, visitor: str, choice: Choice, turns_seen: int, source: Source = "page"
    ) -> Vote:
        """One vote a battle; a second one raises VoteError and changes nothing.

        `turns_seen`: how many turns the visitor had read, of which at least one was answered on both sides. A vote
        that is not blind, or that came by the API or MCP, is stored and not counted; `why_not` says so.
        Raises VoteError too for a wrong token, and for more votes than a visitor may cast within 24 hours.
        """
        _one_of(choice, Choice, "choice")
        _one_of(source, Source, "source")
        with self._database.writing(battle_id, f"visitor {visitor}") as session:
            battle = _battle_row(session, battle_id)
            if not hmac.compare_digest(_hash(token), battle.token_hash):
                raise VoteError(f"This is not the token of battle {battle_id}. Vote on the page that opened it.")
            if earlier := session.scalar(select(VoteRow.choice).where(VoteRow.battle == battle_id)):
                raise VoteError(
                    f"Battle {battle_id} has its vote already ({earlier}); a battle takes one. Start a new one."
                )
            turns = _turns_seen(session, battle_id, turns_seen)
            self._check_daily(session, visitor)
            read = _as_read(turns, (battle.model_a, battle.model_b))
            after_reveal = session.get(RevealRow, battle_id) is not None
            why_not = _why_not(battle.mode, after_reveal, source, read["leak"])
            row = VoteRow(
                battle=battle_id,
                created=time.time(),
                visitor=visitor,
                choice=choice,
                source=source,
                turns_seen=turns_seen,
                **read,
                after_reveal=after_reveal,
                counted=why_not is None,
                why_not=why_not,
            )
            session.add(row)
        self._mirrored(row)
        return Vote(battle_id, choice, turns_seen, source, row.created, row.counted, why_not)

    def add_judged(
        self,
        battle_id: str,
        a: Side,
        b: Side,
        turns: Sequence[Turn],
        choice: Choice,
        *,
        judge: str,
        data_set: str | None = None,
        conversation: str | None = None,
        intent: str | None = None,
    ) -> bool:
        """An automatic battle with the verdict of the model `judge`, wholly or not at all: source `judge`, and never
        counted among people's votes. `battle_id` is made from what was judged; False where it is stored already."""
        now, visitor = time.time(), f"judge:{judge}"
        battle = BattleRow(
            id=battle_id,
            created=now,
            visitor=visitor,
            mode="blind",
            source="judge",
            model_a=a.model,
            model_b=b.model,
            label_a=a.label or a.model,
            label_b=b.label or b.model,
            identity_a=a.identity,
            identity_b=b.identity,
            data_set=data_set,
            conversation=conversation,
            intent=intent,
            token_hash="",  # no token has this hash: nobody can vote on it
        )
        said = [_turn_row(battle_id, index, now, turn.query, turn.a, turn.b) for index, turn in enumerate(turns)]
        vote = VoteRow(
            battle=battle_id,
            created=now,
            visitor=visitor,
            choice=choice,
            source="judge",
            turns_seen=len(said),
            **_as_read(said, (a.model, b.model)),
            after_reveal=False,
            counted=False,
            why_not="judge",
        )
        with self._database.writing(battle_id) as session:
            if session.get(BattleRow, battle_id) is not None:
                return False
            for rows in ([battle], said, [vote]):
                session.add_all(rows)
                session.flush()
        for row in (battle, *said, vote):
            self._mirrored(row)
        return True

    def reveal(self, battle_id: str) -> None:
        """The names are shown: from now on a vote on this battle is not blind. Again, it does nothing."""
        with self._database.writing(battle_id) as session:
            _battle_row(session, battle_id)
            if session.get(RevealRow, battle_id):
                return
            row = RevealRow(battle=battle_id, created=time.time())
            session.add(row)
        self._mirrored(row)

    def report(self, battle_id: str, visitor: str, reason: str) -> None:
        """A visitor objects to something that was said."""
        reason = _clean(reason).strip()
        if not 0 < len(reason) <= MAX_REASON:
            raise VoteError(f"A report has {len(reason)} characters; say what is wrong in 1 to {MAX_REASON:,}.")
        with self._database.writing() as session:
            _battle_row(session, battle_id)
            row = ReportRow(battle=battle_id, created=time.time(), visitor=visitor, reason=reason)
            session.add(row)
        self._mirrored(row)

    def battle(self, battle_id: str) -> Battle:
        """All that may be shown of a battle: the names only where they were known, shown or voted on."""
        with self._database.reading() as session:
            row = _battle_row(session, battle_id)
            turns = session.scalars(select(TurnRow).where(TurnRow.battle == battle_id).order_by(TurnRow.index)).all()
            choice = session.scalar(select(VoteRow.choice).where(VoteRow.battle == battle_id))
            shown = row.mode == "named" or choice is not None or session.get(RevealRow, battle_id) is not None
        return Battle(
            id=row.id,
            created=row.created,
            mode=cast(Mode, row.mode),
            source=cast(Source, row.source),
            data_set=row.data_set,
            conversation=row.conversation,
            intent=row.intent,
            turns=tuple(Turn(turn.query, _reply(turn, "a"), _reply(turn, "b")) for turn in turns),
            choice=cast(Choice | None, choice),
            a=Side(row.model_a, row.label_a, row.identity_a) if shown else None,
            b=Side(row.model_b, row.label_b, row.identity_b) if shown else None,
        )

    def votes_table(
        self,
        only: Only = Only(),
        *,
        columns: Sequence[str] | None = None,
        limit: int | None = None,
        before: int | None = None,
        after: int | None = None,
    ) -> pd.DataFrame:
        """One row a vote, the newest first; `created` in UTC, `len_*` in characters over the `turns` that were seen.

        A page of a long table: `limit` rows, and the last one's `number` as `before` of the next page. `after`: only
        votes with a higher number. `columns`: only these, which takes a fraction of the time of all.
        """
        import pandas as pd

        names = list(columns or _COLUMNS)
        query = (
            select(*(_COLUMNS[name].label(name) for name in names))
            .select_from(VoteRow)
            .join(BattleRow, BattleRow.id == VoteRow.battle)
            .where(*_conditions(only))
            .order_by(VoteRow.number.desc())
            .limit(limit)
        )
        if before is not None:
            query = query.where(VoteRow.number < before)
        if after is not None:
            query = query.where(VoteRow.number > after)
        with self._database.reading() as session:
            rows = session.execute(query).all()
        table = pd.DataFrame.from_records([tuple(row) for row in rows], columns=names)
        if "created" in names:
            table["created"] = pd.to_datetime(table["created"].astype(float), unit="s", utc=True)
        return table

    def votes_count(self, only: Only = Only()) -> int:
        """How many rows `votes_table` has with it."""
        query = select(func.count(VoteRow.number)).where(*_conditions(only))
        if only.model or only.intent or only.data_set:  # a vote has its battle: else there is nothing to look up there
            query = query.join(BattleRow, BattleRow.id == VoteRow.battle)
        with self._database.reading() as session:
            return session.scalar(query) or 0

    def close(self) -> None:
        self._database.close()

    def _check_daily(self, session: Session, visitor: str) -> None:
        since = VoteRow.created > time.time() - DAY_S
        cast_today = session.scalar(select(func.count()).where(VoteRow.visitor == visitor, since)) or 0
        if cast_today >= self._daily_votes:
            raise VoteError(
                f"You have cast {cast_today} votes within 24 hours, the most that one visitor may. Thank you; "
                "come back tomorrow."
            )

    def _mirrored(self, row: Table) -> None:
        if self._mirror:
            self._mirror.append(row.__tablename__, _values(row))

    def _restore(self, mirror: Mirror) -> None:
        """An empty database takes what the mirror holds: the disk of a Space does not last."""
        with self._database.writing("restore") as session:
            if session.scalar(select(BattleRow.id).limit(1)) is not None:
                return
            stored = mirror.read()
            battles = {row["id"] for row in stored["battles"]}
            for table in (BattleRow, TurnRow, VoteRow, RevealRow, ReportRow):
                rows = stored[table.__tablename__]
                known = [row for row in rows if table is BattleRow or row["battle"] in battles]
                if known:
                    session.execute(insert(table), sorted(known, key=lambda row: row["created"]))


def _battle_row(session: Session, battle_id: str) -> BattleRow:
    row = session.get(BattleRow, battle_id)
    if row is None:
        raise VoteError(f"There is no battle {battle_id!r}. Check the link, or start a new battle.")
    return row


def _turns_seen(session: Session, battle_id: str, turns_seen: int) -> Sequence[TurnRow]:
    turns = session.scalars(select(TurnRow).where(TurnRow.battle == battle_id).order_by(TurnRow.index)).all()
    seen = turns[: max(0, turns_seen)]
    if not any(_reply(turn, "a").answered and _reply(turn, "b").answered for turn in seen):
        raise VoteError("There is no turn yet that both models answered. Ask both a question, then vote.")
    if len(turns) < turns_seen:
        raise VoteError(f"A vote on {turns_seen} turns of a battle that has {len(turns)}. Reload the page, then vote.")
    return seen


def _why_not(mode: str, after_reveal: bool, source: Source, leak: bool) -> WhyNot | None:
    if mode == "named":
        return "named"
    if after_reveal:
        return "after_reveal"
    if source != "page":
        return source
    return "leak" if leak else None


def _turn_row(battle_id: str, index: int, created: float, query: str, a: Reply, b: Reply) -> TurnRow:
    return TurnRow(
        battle=battle_id,
        index=index,
        created=created,
        query=_clean(query),
        reply_a=_clean(a.text),
        reply_b=_clean(b.text),
        **_figures(a, "a"),
        **_figures(b, "b"),
    )


def _as_read(turns: Sequence[TurnRow], models: tuple[str, str]) -> dict[str, Any]:
    """What a vote keeps of the replies that it is on."""
    return {
        "length_a": sum(len(turn.reply_a) for turn in turns),
        "length_b": sum(len(turn.reply_b) for turn in turns),
        "leak": any(names_itself(text, models) for turn in turns for text in (turn.reply_a, turn.reply_b)),
    }


def _figures(reply: Reply, side: str) -> dict[str, Any]:
    figures = ("latency_s", "ttft_s", "tokens", "tokens_per_s", "similarity", "error")
    return {f"{figure}_{side}": getattr(reply, figure) for figure in figures}


def _reply(turn: TurnRow, side: str) -> Reply:
    figures = {name: getattr(turn, f"{name}_{side}") for name in Reply.__dataclass_fields__ if name != "text"}
    return Reply(getattr(turn, f"reply_{side}"), **figures)


def _conditions(only: Only) -> list[ColumnElement[bool]]:
    wanted = {
        BattleRow.intent: only.intent,
        BattleRow.data_set: only.data_set,
        VoteRow.source: only.source,
        VoteRow.counted: only.counted,
    }
    conditions = [column == value for column, value in wanted.items() if value is not None]
    if only.model is not None:
        conditions.append(or_(BattleRow.model_a == only.model, BattleRow.model_b == only.model))
    return conditions


def _values(row: Table) -> dict[str, Any]:
    """Without the number: each database gives its own."""
    return {column.key: getattr(row, column.key) for column in row.__table__.columns if column.key != "number"}


def _one_of(value: str, kind: Any, what: str) -> None:
    if value not in get_args(kind):
        raise VoteError(f"There is no {what} {value!r}; there are {', '.join(get_args(kind))}.")


def _clean(text: str) -> str:
    """PostgreSQL takes no NUL, and neither database a lone surrogate: a visitor can paste both."""
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
