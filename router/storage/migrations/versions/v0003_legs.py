"""A call's record tells how each of its legs ended.

Records of the past have no legs until another event of their call comes; `calls show` has all their
events in its timeline as before.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """No legs are known of any call yet."""
    op.add_column(
        "calls", sa.Column("legs", sa.Text, nullable=False, server_default=sa.text("'[]'"))
    )


def downgrade() -> None:
    """Forget them: they can be told again from the events."""
    with op.batch_alter_table("calls") as table:
        table.drop_column("legs")
