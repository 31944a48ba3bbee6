"""Accounts: everything that a user owns has one, and agents and numbers get ids of their own.

What is there already belongs to the account `default`. The routes keep their revs, so nothing has
to be published anew, and calls are answered and dispatched meanwhile: claims and calls only get new
columns. An older program beside this one can't change the mapping any more.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_DEFAULT = "5b1d0f6e-6a51-5f0b-9c39-0d8a3c6f7a10"
_ID = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_UUID = {
    "postgresql": "gen_random_uuid()::text",
    "sqlite": "lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' ||"
    " substr(hex(randomblob(2)), 2) || '-a' || substr(hex(randomblob(2)), 2) || '-' ||"
    " hex(randomblob(6)))",
}


def upgrade() -> None:
    """Old agents and numbers are copied into tables of the new form."""
    _accounts()
    _connections()
    _agents()
    _numbers()
    _beside()
    _calls()


def downgrade() -> None:
    """Keep the account `default` alone; others' agents and numbers are dropped.

    So are numbers that are being released: the old mapping would route them.
    """
    for table in ("audit", "idempotency_keys", "refreshes", "documents", "orders"):
        op.drop_table(table)
    with op.batch_alter_table("calls") as calls:
        calls.drop_index("ix_calls_account_id_initiated_at_call_id")
        for column in ("account_id", "connection_id", "agent_id"):
            calls.drop_column(column)
    _old_mapping()
    for table in ("numbers_new", "agents_new", "connections", "tokens", "accounts"):
        op.drop_table(table)


def _accounts() -> None:
    table = op.create_table(
        "accounts",
        sa.Column("id", _ID, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("worker", sa.Text, nullable=False),
        sa.Column("numbers_limit", sa.Integer, nullable=True),
        sa.Column("calls_limit", sa.Integer, nullable=True),
        sa.Column("minutes_limit", sa.Integer, nullable=True),
        sa.Column("shared_carriers", sa.Boolean, nullable=False),
        *_times(),
        sa.PrimaryKeyConstraint("id", name="pk_accounts"),
        sa.UniqueConstraint("name", name="uq_accounts_name"),
    )
    op.bulk_insert(
        table,
        [
            {
                "id": _DEFAULT,
                "name": "default",
                "worker": "",
                "shared_carriers": True,
                "created_at": 0,
                "updated_at": 0,
            }
        ],
    )
    op.create_table(
        "tokens",
        sa.Column("id", _ID, nullable=False),
        sa.Column("account_id", _ID, nullable=False),
        sa.Column("label", sa.Text, nullable=False),
        sa.Column("hash", sa.Text, nullable=False),
        sa.Column("hint", sa.Text, nullable=False),
        sa.Column("scopes", sa.Text, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=True),
        sa.Column("last_used_at", sa.BigInteger, nullable=True),
        sa.Column("revoked_at", sa.BigInteger, nullable=True),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_tokens"),
        sa.UniqueConstraint("hash", name="uq_tokens_hash"),
        _account_key("tokens"),
    )
    paged = ["account_id", "created_at", "id"]
    op.create_index("ix_tokens_account_id_created_at_id", "tokens", paged)
    op.create_index("ix_tokens_created_at_id", "tokens", ["created_at", "id"])


def _connections() -> None:
    op.create_table(
        "connections",
        sa.Column("id", _ID, nullable=False),
        sa.Column("account_id", _ID, nullable=False),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("label", sa.Text, nullable=False),
        sa.Column("provider_account", sa.Text, nullable=False),
        sa.Column("details", sa.Text, nullable=False),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.Column("is_default", sa.Boolean, nullable=False),
        sa.Column("rev", sa.BigInteger, nullable=False),
        *_times(),
        sa.PrimaryKeyConstraint("id", name="pk_connections"),
        _account_key("connections"),
    )
    paged = ["account_id", "created_at", "id", "provider"]
    op.create_index("ix_connections_paged", "connections", paged)


def _agents() -> None:
    op.rename_table("agents", "agents_old")
    op.create_table(
        "agents",
        sa.Column("id", _ID, nullable=False),
        sa.Column("account_id", _ID, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("label", sa.Text, nullable=False),
        sa.Column("livekit_agent_name", sa.Text, nullable=False),
        sa.Column("metadata", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("origin", sa.Text, nullable=False),
        sa.Column("config", sa.Text, nullable=False),
        sa.Column("rev", sa.BigInteger, nullable=False),
        *_times(),
        sa.PrimaryKeyConstraint("id", name=_free("pk_agents")),
        sa.UniqueConstraint("account_id", "name", name="uq_agents_account_id_name"),
        _account_key("agents"),
    )
    op.create_index("ix_agents_paged", "agents", ["account_id", "created_at", "id", "status"])
    op.create_index("ix_agents_rev", "agents", ["rev"])
    op.execute(
        "INSERT INTO agents (id, account_id, name, label, livekit_agent_name, metadata, status,"  # noqa: S608
        f" origin, config, rev, created_at, updated_at) SELECT {_uuid()}, '{_DEFAULT}', name, name,"
        " livekit_agent_name, metadata, status, 'file', '{}', rev, created_at, updated_at"
        " FROM agents_old"
    )


def _numbers() -> None:
    op.rename_table("numbers", "numbers_old")
    op.drop_index("ix_numbers_agent", "numbers_old")
    op.create_table(
        "numbers",
        sa.Column("short_id", _SERIAL, nullable=False, autoincrement=True),
        sa.Column("id", _ID, nullable=False),
        sa.Column("account_id", _ID, nullable=False),
        sa.Column("number", sa.Text, nullable=False),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("connection_id", _ID, nullable=True),
        sa.Column("agent_id", _ID, nullable=True),
        sa.Column("fallback", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("mode", sa.Text, nullable=False),
        sa.Column("label", sa.Text, nullable=False),
        sa.Column("details", sa.Text, nullable=False),
        sa.Column("provider_number_id", sa.Text, nullable=False),
        sa.Column("bought", sa.Boolean, nullable=False),
        sa.Column("rev", sa.BigInteger, nullable=False),
        *_times(),
        sa.PrimaryKeyConstraint("short_id", name=_free("pk_numbers")),
        sa.UniqueConstraint("id", name="uq_numbers_id"),
        sa.UniqueConstraint("number", name="uq_numbers_number"),
        _account_key("numbers"),
        _connection_key("numbers"),
        sa.ForeignKeyConstraint(["agent_id"], ["agents.id"], name="fk_numbers_agent_id_agents"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_numbers_connection_id", "numbers", ["connection_id"])
    op.create_index("ix_numbers_account_id_number", "numbers", ["account_id", "number"])
    paged = ["account_id", "short_id", "state"]
    op.create_index("ix_numbers_account_id_short_id_state", "numbers", paged)
    of_agent = ["agent_id", "short_id", "state"]
    op.create_index("ix_numbers_agent_id_short_id_state", "numbers", of_agent)
    unlinked = sa.text("agent_id IS NULL")
    op.create_index(
        "ix_numbers_unlinked",
        "numbers",
        [*paged, "agent_id"],
        sqlite_where=unlinked,
        postgresql_where=unlinked,
    )
    op.execute(
        "INSERT INTO numbers (id, account_id, number, provider, agent_id, fallback, state, mode,"  # noqa: S608
        " label, details, provider_number_id, bought, rev, created_at, updated_at)"
        f" SELECT {_uuid()}, '{_DEFAULT}', number, provider, agents.id, fallback, 'active',"
        " 'webhook', '', '{}', '', false, numbers_old.rev, numbers_old.created_at,"
        " numbers_old.updated_at"
        " FROM numbers_old LEFT JOIN agents ON agents.name = numbers_old.agent"
        " ORDER BY number"
    )
    op.drop_table("numbers_old")
    op.drop_table("agents_old")


def _beside() -> None:
    op.create_table(
        "orders",
        sa.Column("id", _ID, nullable=False),
        sa.Column("account_id", _ID, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("number", sa.Text, nullable=False),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("connection_id", _ID, nullable=True),
        sa.Column("request", sa.Text, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("due_at", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_orders"),
        sa.UniqueConstraint("number", name="uq_orders_number"),
        _account_key("orders"),
        _connection_key("orders"),
    )
    op.create_index("ix_orders_account_id", "orders", ["account_id"])
    op.create_index("ix_orders_due_at", "orders", ["due_at"])
    op.create_table(
        "documents",
        sa.Column("id", _ID, nullable=False),
        sa.Column("account_id", _ID, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        *_times(),
        sa.PrimaryKeyConstraint("id", name="pk_documents"),
        _account_key("documents"),
    )
    paged = ["account_id", "kind", "created_at", "id"]
    op.create_index("ix_documents_paged", "documents", paged)
    op.create_table(
        "refreshes",
        sa.Column("document_id", _ID, nullable=False),
        sa.Column("account_id", _ID, nullable=False),
        sa.Column("token", sa.Text, nullable=False),
        sa.Column("due_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("document_id", name="pk_refreshes"),
        _account_key("refreshes"),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("account_id", _ID, nullable=False),
        sa.Column("key", _ID, nullable=False),
        sa.Column("request", sa.Text, nullable=False),
        sa.Column("status", sa.Integer, nullable=True),
        sa.Column("body", sa.LargeBinary, nullable=True),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("account_id", "key", name="pk_idempotency_keys"),
        _account_key("idempotency_keys"),
    )
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"])
    op.create_table(
        "audit",
        sa.Column("id", _SERIAL, nullable=False, autoincrement=True),
        sa.Column("account_id", _ID, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("object_id", sa.Text, nullable=False),
        sa.Column("before", sa.Text, nullable=True),
        sa.Column("after", sa.Text, nullable=True),
        sa.Column("request_id", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_audit_account_id_id", "audit", ["account_id", "id"])
    op.create_index("ix_audit_object_id_id", "audit", ["object_id", "id"])


def _calls() -> None:
    op.add_column("calls", sa.Column("account_id", _ID, nullable=False, server_default=_DEFAULT))
    for column in ("connection_id", "agent_id"):
        op.add_column(
            "calls", sa.Column(column, sa.Text, nullable=False, server_default=sa.text("''"))
        )
    paged = ["account_id", "initiated_at", "call_id"]
    op.create_index("ix_calls_account_id_initiated_at_call_id", "calls", paged)


def _old_mapping() -> None:
    op.rename_table("numbers", "numbers_new")
    op.rename_table("agents", "agents_new")
    op.create_table(
        "agents",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("livekit_agent_name", sa.Text, nullable=False),
        sa.Column("metadata", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("rev", sa.BigInteger, nullable=False),
        *_times(),
        sa.PrimaryKeyConstraint("name", name=_free("pk_agents")),
    )
    op.create_table(
        "numbers",
        sa.Column("number", sa.Text, nullable=False),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("agent", sa.Text, nullable=True),
        sa.Column("fallback", sa.Text, nullable=False),
        sa.Column("rev", sa.BigInteger, nullable=False),
        *_times(),
        sa.PrimaryKeyConstraint("number", name=_free("pk_numbers")),
        sa.ForeignKeyConstraint(["agent"], ["agents.name"], name="fk_numbers_agent_agents"),
    )
    op.create_index("ix_numbers_agent", "numbers", ["agent"])
    op.execute(
        "INSERT INTO agents SELECT name, livekit_agent_name, metadata, status, rev, created_at,"  # noqa: S608
        f" updated_at FROM agents_new WHERE account_id = '{_DEFAULT}'"
    )
    op.execute(
        "INSERT INTO numbers SELECT number, provider, agents_new.name, fallback, numbers_new.rev,"  # noqa: S608
        " numbers_new.created_at, numbers_new.updated_at FROM numbers_new LEFT JOIN agents_new"
        f" ON agents_new.id = agent_id WHERE numbers_new.account_id = '{_DEFAULT}'"
        " AND state = 'active'"  # what is being released has no route
    )


def _times() -> list[sa.Column[int]]:
    return [sa.Column(name, sa.BigInteger, nullable=False) for name in ("created_at", "updated_at")]


def _account_key(table: str) -> sa.ForeignKeyConstraint:
    name = f"fk_{table}_account_id_accounts"
    return sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=name)


def _connection_key(table: str) -> sa.ForeignKeyConstraint:
    name = f"fk_{table}_connection_id_connections"
    return sa.ForeignKeyConstraint(["connection_id"], ["connections.id"], name=name)


def _uuid() -> str:
    return _UUID[op.get_bind().dialect.name]


def _free(name: str) -> str:
    """A renamed table keeps the name of its primary key in PostgreSQL: rename that too."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(f"ALTER INDEX {name} RENAME TO {name}_old")
    return name
