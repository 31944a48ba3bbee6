"""The tables. One metadata for SQLite and PostgreSQL; `migrations/` brings a database to it.

Only types that both have: text, integers, bytes. Times are µs since the epoch, UTC; JSON is text.
"""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    text,
)

metadata: Final = MetaData(
    # Names that migrations can refer to; SQLite and PostgreSQL would each invent their own.
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# Bytewise order in both databases: then a prefix of an id is a range of its index.
Id: Final = Text().with_variant(Text(collation="C"), "postgresql")
# SQLite gives numbers of its own only to INTEGER keys.
Serial: Final = BigInteger().with_variant(Integer(), "sqlite")

agents: Final = Table(
    "agents",
    metadata,
    Column("name", Text, primary_key=True),
    Column("livekit_agent_name", Text, nullable=False),
    Column("metadata", Text, nullable=False),  # JSON object, given to the agent's job
    Column("status", Text, nullable=False),  # deployed | paused | disabled
    Column("rev", BigInteger, nullable=False),  # of the last change that its numbers must be told
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
)

numbers: Final = Table(
    "numbers",
    metadata,
    Column("number", Text, primary_key=True),  # E.164
    Column("provider", Text, nullable=False),
    Column("agent", Text, ForeignKey("agents.name"), nullable=True, index=True),
    Column("fallback", Text, nullable=False),  # E.164 or empty
    Column("rev", BigInteger, nullable=False),  # of the last change of its route
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
)

# One row: the newest rev that was given out, and the epoch of all revs. A change takes its rev when
# the rows that it changes are locked and read, so this row is locked while they are written.
revision: Final = Table(
    "revision",
    metadata,
    Column("id", Integer, CheckConstraint("id = 1", name="one_row"), primary_key=True),
    Column("value", BigInteger, nullable=False),
    Column("epoch", BigInteger, nullable=False, server_default=text("1")),
)

outbox: Final = Table(
    "outbox",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("topic", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("value", LargeBinary, nullable=True),  # NULL: tombstone
    Column("headers", Text, nullable=False),  # JSON object of strings
    Column("created_at", BigInteger, nullable=False),
    sqlite_autoincrement=True,  # an id is never given twice, also after a delete
)

claims: Final = Table(
    "claims",
    metadata,
    Column("call_id", Id, primary_key=True),
    Column("state", Text, nullable=False),
    Column("fence", Integer, nullable=False),
    Column("owner", Text, nullable=False),
    Column("lease_until", BigInteger, nullable=False),
    Column("due_at", BigInteger, nullable=True),
    Column("attempt", Integer, nullable=False),
    Column("agent", Text, nullable=False),
    Column("livekit_agent_name", Text, nullable=False),
    Column("dispatch_id", Text, nullable=False),
    Column("initiated", LargeBinary, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
)

# Calls that are being connected are few among all that ever were.
_OPEN = claims.c.state.in_(["claimed", "dispatching", "dispatched"])
Index("ix_claims_open", claims.c.created_at, sqlite_where=_OPEN, postgresql_where=_OPEN)

calls: Final = Table(  # one column for each field of router.events.call.CallRecord
    "calls",
    metadata,
    Column("call_id", Id, primary_key=True),
    Column("provider", Text, nullable=False),
    Column("provider_call_id", Text, nullable=False, index=True),
    Column("account", Text, nullable=False),
    Column("direction", Text, nullable=True),
    Column("from_number", Text, nullable=False),
    Column("to_number", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("disposition", Text, nullable=True),
    Column("agent", Text, nullable=False),
    Column("agent_ready", Boolean, nullable=False),
    Column("reason", Text, nullable=False),
    Column("initiated_at", BigInteger, nullable=False),
    Column("ringing_at", BigInteger, nullable=True),
    Column("agent_ready_at", BigInteger, nullable=True),
    Column("answered_at", BigInteger, nullable=True),
    Column("ended_at", BigInteger, nullable=True),
    Column("duration", Double, nullable=True),
    Column("legs", Text, nullable=False, server_default=text("'[]'")),  # JSON array
    Index("ix_calls_initiated_at_call_id", "initiated_at", "call_id"),  # pages, newest first
)
_UNENDED = calls.c.state != "ended"
Index("ix_calls_unended", calls.c.initiated_at, sqlite_where=_UNENDED, postgresql_where=_UNENDED)

call_events: Final = Table(
    "call_events",
    metadata,
    Column("event_id", Id, primary_key=True),
    Column("call_id", Id, nullable=False),
    Column("type", Text, nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("source", Text, nullable=False),
    Column("data", LargeBinary, nullable=False),  # JSON of router.events.model.EventData
    Index("ix_call_events_call_id_time", "call_id", "time"),
)
