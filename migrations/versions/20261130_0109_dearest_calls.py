"""Calls of each month by their cost, for the list of the dearest calls.

Revision: 0109
Revises: 0108
"""

from migrations.indexing import build_indexes, drop_indexes

revision = "0109"
down_revision = "0108"
branch_labels = None
depends_on = None

INDEXES = {
    "idx_gateway_call_dearest": """
        gateway_call (account_id, date_trunc('month', finished_at AT TIME ZONE 'UTC'), cost DESC, finished_at DESC) WHERE cost > 0
    """,
}


def upgrade() -> None:
    """Apply the migration."""
    build_indexes(INDEXES)


def downgrade() -> None:
    """Revert it."""
    drop_indexes(INDEXES)
