"""The first schema: the mapping with its outbox, claims, calls."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_ID = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_OPEN = sa.text("state IN ('claimed', 'dispatching', 'dispatched')")
_UNENDED = sa.text("state != 'ended'")


def upgrade() -> None:
    """From nothing."""
    _mapping()
    _claims()
    _calls()


def downgrade() -> None:
    """Drop everything."""
    for table in ("call_events", "calls", "claims", "outbox", "revision", "numbers", "agents"):
        op.drop_table(table)


def _mapping() -> None:
    op.create_table(
        "agents",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("livekit_agent_name", sa.Text, nullable=False),
        sa.Column("metadata", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        *_rev_and_times(),
        sa.PrimaryKeyConstraint("name", name="pk_agents"),
    )
    op.create_table(
        "numbers",
        sa.Column("number", sa.Text, nullable=False),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("agent", sa.Text, nullable=True),
        sa.Column("fallback", sa.Text, nullable=False),
        *_rev_and_times(),
        sa.PrimaryKeyConstraint("number", name="pk_numbers"),
        sa.ForeignKeyConstraint(["agent"], ["agents.name"], name="fk_numbers_agent_agents"),
    )
    op.create_index("ix_numbers_agent", "numbers", ["agent"])
    table = op.create_table(
        "revision",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("value", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_revision"),
        sa.CheckConstraint("id = 1", name="ck_revision_one_row"),
    )
    op.bulk_insert(table, [{"id": 1, "value": 0}])
    op.create_table(
        "outbox",
        sa.Column("id", _SERIAL, nullable=False, autoincrement=True),
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("value", sa.LargeBinary, nullable=True),
        sa.Column("headers", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_outbox"),
        sqlite_autoincrement=True,
    )


def _rev_and_times() -> list[sa.Column[int]]:
    return [
        sa.Column(name, sa.BigInteger, nullable=False)
        for name in ("rev", "created_at", "updated_at")
    ]


def _claims() -> None:
    op.create_table(
        "claims",
        sa.Column("call_id", _ID, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("fence", sa.Integer, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("lease_until", sa.BigInteger, nullable=False),
        sa.Column("due_at", sa.BigInteger, nullable=True),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("agent", sa.Text, nullable=False),
        sa.Column("livekit_agent_name", sa.Text, nullable=False),
        sa.Column("dispatch_id", sa.Text, nullable=False),
        sa.Column("initiated", sa.LargeBinary, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("call_id", name="pk_claims"),
    )
    op.create_index(
        "ix_claims_open", "claims", ["created_at"], sqlite_where=_OPEN, postgresql_where=_OPEN
    )


def _calls() -> None:
    op.create_table(
        "calls",
        sa.Column("call_id", _ID, nullable=False),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("provider_call_id", sa.Text, nullable=False),
        sa.Column("account", sa.Text, nullable=False),
        sa.Column("direction", sa.Text, nullable=True),
        sa.Column("from_number", sa.Text, nullable=False),
        sa.Column("to_number", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("disposition", sa.Text, nullable=True),
        sa.Column("agent", sa.Text, nullable=False),
        sa.Column("agent_ready", sa.Boolean, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("initiated_at", sa.BigInteger, nullable=False),
        sa.Column("ringing_at", sa.BigInteger, nullable=True),
        sa.Column("agent_ready_at", sa.BigInteger, nullable=True),
        sa.Column("answered_at", sa.BigInteger, nullable=True),
        sa.Column("ended_at", sa.BigInteger, nullable=True),
        sa.Column("duration", sa.Double, nullable=True),
        sa.PrimaryKeyConstraint("call_id", name="pk_calls"),
    )
    op.create_index("ix_calls_provider_call_id", "calls", ["provider_call_id"])
    op.create_index("ix_calls_initiated_at_call_id", "calls", ["initiated_at", "call_id"])
    op.create_index(
        "ix_calls_unended",
        "calls",
        ["initiated_at"],
        sqlite_where=_UNENDED,
        postgresql_where=_UNENDED,
    )
    op.create_table(
        "call_events",
        sa.Column("event_id", _ID, nullable=False),
        sa.Column("call_id", _ID, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("event_id", name="pk_call_events"),
    )
    op.create_index("ix_call_events_call_id_time", "call_events", ["call_id", "time"])
