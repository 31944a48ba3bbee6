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
    UniqueConstraint,
    text,
)

from router.events.ids import DEFAULT_ACCOUNT

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

accounts: Final = Table(
    "accounts",
    metadata,
    Column("id", Id, primary_key=True),  # UUID
    Column("name", Text, nullable=False, unique=True),
    Column("worker", Text, nullable=False),  # livekit_agent_name of agents that name none, or ""
    Column("numbers_limit", Integer, nullable=True),  # NULL: no limit; so are the next two
    Column("calls_limit", Integer, nullable=True),  # at once
    Column("minutes_limit", Integer, nullable=True),  # of calls in a calendar month, UTC
    Column("shared_carriers", Boolean, nullable=False),  # may buy through the operator's accounts
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
)

tokens: Final = Table(
    "tokens",
    metadata,
    Column("id", Id, primary_key=True),  # UUID
    Column("account_id", Id, ForeignKey("accounts.id"), nullable=False),
    Column("label", Text, nullable=False),
    Column("hash", Text, nullable=False, unique=True),  # SHA-256 of the token, hex
    Column("hint", Text, nullable=False),  # its last four characters
    Column("scopes", Text, nullable=False),  # JSON array
    Column("expires_at", BigInteger, nullable=True),
    Column("last_used_at", BigInteger, nullable=True),
    Column("revoked_at", BigInteger, nullable=True),
    Column("created_at", BigInteger, nullable=False),
    Index("ix_tokens_account_id_created_at_id", "account_id", "created_at", "id"),
    Index("ix_tokens_created_at_id", "created_at", "id"),  # of all accounts
)

connections: Final = Table(
    "connections",
    metadata,
    Column("id", Id, primary_key=True),  # UUID
    Column("account_id", Id, ForeignKey("accounts.id"), nullable=False),
    Column("provider", Text, nullable=False),  # twilio, telnyx, openai, …
    Column("label", Text, nullable=False),
    Column("provider_account", Text, nullable=False),  # an AccountSid, or ""
    Column("details", Text, nullable=False),  # JSON object without secrets: steering pool, …
    Column("sealed", LargeBinary, nullable=False),  # JSON object of the credentials, encrypted
    Column("is_default", Boolean, nullable=False),  # of its account and provider
    Column("rev", BigInteger, nullable=False),  # of its last change
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Index("ix_connections_paged", "account_id", "created_at", "id", "provider"),
)

agents: Final = Table(
    "agents",
    metadata,
    Column("id", Id, primary_key=True),  # UUID
    Column("account_id", Id, ForeignKey("accounts.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("label", Text, nullable=False),  # for people; the name is made from it, once
    Column("livekit_agent_name", Text, nullable=False),
    Column("metadata", Text, nullable=False),  # JSON object, given to the agent's job
    Column("status", Text, nullable=False),  # deployed | paused | disabled
    Column("origin", Text, nullable=False),  # who made it: file, voiceai, vocode, resemble, native
    Column("config", Text, nullable=False),  # JSON object: the dialect's own document
    Column("rev", BigInteger, nullable=False),  # of the last change that its numbers must be told
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    UniqueConstraint("account_id", "name"),
    Index("ix_agents_paged", "account_id", "created_at", "id", "status"),
    Index("ix_agents_rev", "rev"),  # those that changed since
)

numbers: Final = Table(
    "numbers",
    metadata,
    Column("short_id", Serial, primary_key=True, autoincrement=True),  # Resemble's ids are integers
    Column("id", Id, nullable=False, unique=True),  # UUID
    Column("account_id", Id, ForeignKey("accounts.id"), nullable=False),
    Column("number", Text, nullable=False, unique=True),  # E.164
    Column("provider", Text, nullable=False),
    Column("connection_id", Id, ForeignKey("connections.id"), nullable=True, index=True),
    Column("agent_id", Id, ForeignKey("agents.id"), nullable=True),
    Column("fallback", Text, nullable=False),  # E.164 or empty
    Column("state", Text, nullable=False),  # active | deleting | corrupted
    Column("mode", Text, nullable=False),  # webhook | trunk
    Column("label", Text, nullable=False),
    Column("details", Text, nullable=False),  # JSON object: what a dialect keeps with it
    Column("provider_number_id", Text, nullable=False),  # the carrier's own id, or "" if not known
    Column("bought", Boolean, nullable=False),  # by us: only then it is given back on release
    Column("rev", BigInteger, nullable=False),  # of the last change of its route
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Index("ix_numbers_account_id_number", "account_id", "number"),
    # Pages in their order, and how many there are, without a look at the rows.
    Index("ix_numbers_account_id_short_id_state", "account_id", "short_id", "state"),
    Index("ix_numbers_agent_id_short_id_state", "agent_id", "short_id", "state"),
    sqlite_autoincrement=True,  # an id is never given twice, also after a release
)
_UNLINKED = numbers.c.agent_id.is_(None)
Index(
    "ix_numbers_unlinked",
    numbers.c.account_id,
    numbers.c.short_id,
    numbers.c.state,
    numbers.c.agent_id,  # always NULL; without it SQLite reads the row
    sqlite_where=_UNLINKED,
    postgresql_where=_UNLINKED,
)

# What is under way at a carrier: written before the carrier is asked, so that a crash between
# buying and storing is found again. A number has one at most.
orders: Final = Table(
    "orders",
    metadata,
    Column("id", Id, primary_key=True),  # UUID; also the tag that the purchase bears
    Column("account_id", Id, ForeignKey("accounts.id"), nullable=False, index=True),
    Column("kind", Text, nullable=False),  # buy | release
    Column("number", Text, nullable=False, unique=True),  # E.164
    Column("provider", Text, nullable=False),
    Column("connection_id", Id, ForeignKey("connections.id"), nullable=True),
    Column("request", Text, nullable=False),  # JSON object: what the number is to become
    Column("attempt", Integer, nullable=False),
    Column("due_at", BigInteger, nullable=False),  # nobody else works on it before
    Column("created_at", BigInteger, nullable=False),
    Index("ix_orders_due_at", "due_at"),
)

# Prompts, actions, voices, webhooks, vector databases: what Vocode names by id.
documents: Final = Table(
    "documents",
    metadata,
    Column("id", Id, primary_key=True),  # UUID
    Column("account_id", Id, ForeignKey("accounts.id"), nullable=False),
    Column("kind", Text, nullable=False),  # prompt | action | voice | webhook | vector_database
    Column("body", Text, nullable=False),  # JSON object; its secrets are sealed
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Index("ix_documents_paged", "account_id", "kind", "created_at", "id"),
)

# Documents that changed while so many agents referred to them that not all could be changed with
# them: their jobs do not have it yet.
refreshes: Final = Table(
    "refreshes",
    metadata,
    Column("document_id", Id, primary_key=True),
    Column("account_id", Id, ForeignKey("accounts.id"), nullable=False),
    Column("token", Text, nullable=False),  # of the change: another one may come meanwhile
    Column("due_at", BigInteger, nullable=False),  # nobody else works on it before
)

# Answers to requests with an Idempotency-Key, kept for a day.
idempotency_keys: Final = Table(
    "idempotency_keys",
    metadata,
    Column("account_id", Id, ForeignKey("accounts.id"), primary_key=True),
    Column("key", Id, primary_key=True),
    Column("request", Text, nullable=False),  # SHA-256 of method, path and body, hex
    Column("status", Integer, nullable=True),  # NULL: under way
    Column("body", LargeBinary, nullable=True),
    Column("created_at", BigInteger, nullable=False, index=True),
)

audit: Final = Table(
    "audit",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("account_id", Id, nullable=False),
    Column("actor", Text, nullable=False),  # a token's id, or "command line"
    Column("action", Text, nullable=False),  # number.bought, agent.updated, …
    Column("object_id", Text, nullable=False),
    Column("before", Text, nullable=True),  # JSON object without secrets; so is the next
    Column("after", Text, nullable=True),
    Column("request_id", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Index("ix_audit_account_id_id", "account_id", "id"),
    Index("ix_audit_object_id_id", "object_id", "id"),
    sqlite_autoincrement=True,
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

# One column for each field of router.events.call.CallRecord; `account` is its provider_account.
calls: Final = Table(
    "calls",
    metadata,
    Column("call_id", Id, primary_key=True),
    Column("provider", Text, nullable=False),
    Column("provider_call_id", Text, nullable=False, index=True),
    Column("account", Text, nullable=False),  # the provider's own, an AccountSid
    Column("account_id", Id, nullable=False, server_default=DEFAULT_ACCOUNT),
    Column("connection_id", Text, nullable=False, server_default=text("''")),
    Column("agent_id", Text, nullable=False, server_default=text("''")),
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
    Index("ix_calls_account_id_initiated_at_call_id", "account_id", "initiated_at", "call_id"),
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
