"""Assistants in the order in which they were made, deleted ones too, and those that are due to be purged.

Revision: 0115
Revises: 0114
"""

from migrations.indexing import build_indexes, drop_indexes

revision = "0115"
down_revision = "0114"
branch_labels = None
depends_on = None

BEFORE = {
    "idx_assistant_account": "assistant (account_id, updated_at, id) WHERE (deleted_at IS NULL)",
    "idx_assistant_deleted": "assistant (account_id, deleted_at) WHERE (deleted_at IS NOT NULL)",
}
INDEXES = {
    "idx_assistant_list": "assistant (account_id, created_at, id)",
    "idx_assistant_purge": "assistant (deleted_at) WHERE ((deleted_at IS NOT NULL) AND (purged_at IS NULL))",
}


def upgrade() -> None:
    """Apply the migration."""
    build_indexes(INDEXES)
    drop_indexes(BEFORE)


def downgrade() -> None:
    """Revert it."""
    build_indexes(BEFORE)
    drop_indexes(INDEXES)
