"""Revisions get an epoch, which a restored database raises; an agent's rev says who was not told.

Until now an agent's rev grew with every change of it, from now on only with one that changes the
routes of its numbers: a number whose rev is lower has not been told of it. All have been, so far.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Keep every route's rev: nothing has to be published anew."""
    op.add_column(
        "revision", sa.Column("epoch", sa.BigInteger, nullable=False, server_default=sa.text("1"))
    )
    op.execute(
        "UPDATE agents SET rev = (SELECT MIN(numbers.rev) FROM numbers"
        " WHERE numbers.agent = agents.name) WHERE EXISTS (SELECT 1 FROM numbers"
        " WHERE numbers.agent = agents.name AND numbers.rev < agents.rev)"
    )


def downgrade() -> None:
    """Forget the epoch."""
    with op.batch_alter_table("revision") as table:
        table.drop_column("epoch")
