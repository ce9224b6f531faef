"""Battles, turns, votes, reveals, reports."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "battles",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("visitor", sa.Text, nullable=False),
        sa.Column("mode", sa.String(8), nullable=False),
        sa.Column("source", sa.String(8), nullable=False),
        sa.Column("model_a", sa.Text, nullable=False),
        sa.Column("model_b", sa.Text, nullable=False),
        sa.Column("label_a", sa.Text, nullable=False),
        sa.Column("label_b", sa.Text, nullable=False),
        sa.Column("identity_a", sa.Text),
        sa.Column("identity_b", sa.Text),
        sa.Column("data_set", sa.Text),
        sa.Column("conversation", sa.Text),
        sa.Column("intent", sa.Text),
        sa.Column("token_hash", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_battles")),
    )
    op.create_table(
        "turns",
        sa.Column("battle", sa.String(32), nullable=False),
        sa.Column("index", sa.Integer, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("query", sa.Text, nullable=False),
        sa.Column("reply_a", sa.Text, nullable=False),
        sa.Column("reply_b", sa.Text, nullable=False),
        *(
            sa.Column(f"{figure}_{side}", kind)
            for figure, kind in (
                ("latency_s", sa.Double),
                ("ttft_s", sa.Double),
                ("tokens", sa.Integer),
                ("tokens_per_s", sa.Double),
                ("similarity", sa.Double),
                ("error", sa.Text),
            )
            for side in "ab"
        ),
        sa.PrimaryKeyConstraint("battle", "index", name=op.f("pk_turns")),
        sa.ForeignKeyConstraint(["battle"], ["battles.id"], name=op.f("fk_turns_battle")),
    )
    op.create_table(
        "votes",
        sa.Column("number", sa.Integer, autoincrement=True, nullable=False),
        sa.Column("battle", sa.String(32), nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("visitor", sa.Text, nullable=False),
        sa.Column("choice", sa.String(8), nullable=False),
        sa.Column("source", sa.String(8), nullable=False),
        sa.Column("turns_seen", sa.Integer, nullable=False),
        sa.Column("length_a", sa.Integer, nullable=False),
        sa.Column("length_b", sa.Integer, nullable=False),
        sa.Column("leak", sa.Boolean, nullable=False),
        sa.Column("after_reveal", sa.Boolean, nullable=False),
        sa.Column("counted", sa.Boolean, nullable=False),
        sa.Column("why_not", sa.Text),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_votes")),
        sa.UniqueConstraint("battle", name=op.f("uq_votes_battle")),
        sa.ForeignKeyConstraint(["battle"], ["battles.id"], name=op.f("fk_votes_battle")),
    )
    op.create_index(op.f("ix_votes_visitor"), "votes", ["visitor", "created"])
    op.create_table(
        "reveals",
        sa.Column("battle", sa.String(32), nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("battle", name=op.f("pk_reveals")),
        sa.ForeignKeyConstraint(["battle"], ["battles.id"], name=op.f("fk_reveals_battle")),
    )
    op.create_table(
        "reports",
        sa.Column("number", sa.Integer, autoincrement=True, nullable=False),
        sa.Column("battle", sa.String(32), nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("visitor", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_reports")),
        sa.ForeignKeyConstraint(["battle"], ["battles.id"], name=op.f("fk_reports_battle")),
    )
    op.create_index(op.f("ix_reports_battle"), "reports", ["battle"])
