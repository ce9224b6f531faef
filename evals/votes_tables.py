"""The tables of the votes database. They only grow: a row is never changed and never deleted.

    battles   two models, one visitor              1
    turns     a question and both replies          n a battle
    votes     the visitor's choice                 at most 1 a battle
    reveals   the names were shown                 at most 1 a battle
    reports   a visitor objects to a reply         n a battle

Times are seconds since 1970, UTC. A change of this file comes with a migration in `evals/migrations/versions`;
a test compares the two.
"""

from __future__ import annotations

from sqlalchemy import Double, ForeignKey, Index, MetaData, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Table(DeclarativeBase):
    # Named by rule, so that a migration can find a constraint again on either database.
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {float: Double, str: Text}  # noqa: RUF012


class BattleRow(Table):
    __tablename__ = "battles"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    created: Mapped[float]
    visitor: Mapped[str]
    mode: Mapped[str] = mapped_column(String(8))
    source: Mapped[str] = mapped_column(String(8))
    model_a: Mapped[str]
    model_b: Mapped[str]
    label_a: Mapped[str]
    label_b: Mapped[str]
    #: What the weights were at the time, such as their hash: one name may stand for another model later.
    identity_a: Mapped[str | None]
    identity_b: Mapped[str | None]
    data_set: Mapped[str | None]
    conversation: Mapped[str | None]
    intent: Mapped[str | None]
    token_hash: Mapped[str] = mapped_column(String(64))


class TurnRow(Table):
    __tablename__ = "turns"

    battle: Mapped[str] = mapped_column(ForeignKey("battles.id"), primary_key=True)
    index: Mapped[int] = mapped_column(primary_key=True)
    created: Mapped[float]
    query: Mapped[str]
    reply_a: Mapped[str]
    reply_b: Mapped[str]
    latency_s_a: Mapped[float | None]
    latency_s_b: Mapped[float | None]
    ttft_s_a: Mapped[float | None]
    ttft_s_b: Mapped[float | None]
    tokens_a: Mapped[int | None]
    tokens_b: Mapped[int | None]
    tokens_per_s_a: Mapped[float | None]
    tokens_per_s_b: Mapped[float | None]
    similarity_a: Mapped[float | None]
    similarity_b: Mapped[float | None]
    error_a: Mapped[str | None]
    error_b: Mapped[str | None]


class VoteRow(Table):
    """`turns_seen`, `length_*` (characters) and `leak` are those of the moment: the talk may go on after the vote."""

    __tablename__ = "votes"
    __table_args__ = (Index(None, "visitor", "created"),)

    #: In the order of the votes: pages of a long table start behind a number.
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    battle: Mapped[str] = mapped_column(ForeignKey("battles.id"), unique=True)
    created: Mapped[float]
    visitor: Mapped[str]
    choice: Mapped[str] = mapped_column(String(8))
    source: Mapped[str] = mapped_column(String(8))
    turns_seen: Mapped[int]
    length_a: Mapped[int]
    length_b: Mapped[int]
    leak: Mapped[bool]
    after_reveal: Mapped[bool]
    #: Whether it is rated with the others; `why_not` says what speaks against it.
    counted: Mapped[bool]
    why_not: Mapped[str | None]


class RevealRow(Table):
    __tablename__ = "reveals"

    battle: Mapped[str] = mapped_column(ForeignKey("battles.id"), primary_key=True)
    created: Mapped[float]


class ReportRow(Table):
    __tablename__ = "reports"

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    battle: Mapped[str] = mapped_column(ForeignKey("battles.id"), index=True)
    created: Mapped[float]
    visitor: Mapped[str]
    reason: Mapped[str]
