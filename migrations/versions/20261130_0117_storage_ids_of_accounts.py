"""A storage_id is unique in its account: another tenant's choice neither blocks nor shows.

Revision: 0117
Revises: 0116
"""

from alembic import op

revision = "0117"
down_revision = "0116"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the migration. The table is new: no release has filled it."""
    op.execute("DROP INDEX idx_thread_storage")
    op.execute(
        "CREATE UNIQUE INDEX idx_thread_storage ON thread (account_id, storage_id) WHERE (storage_id IS NOT NULL)"
    )


def downgrade() -> None:
    """Revert it."""
    op.execute("DROP INDEX idx_thread_storage")
    op.execute("CREATE UNIQUE INDEX idx_thread_storage ON thread (storage_id) WHERE (storage_id IS NOT NULL)")
