"""Whether a copy of a shared thread gets its documents.

Revision: 0119
Revises: 0118
"""

from alembic import op

revision = "0119"
down_revision = "0118"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the migration."""
    op.execute("ALTER TABLE thread_share ADD COLUMN with_documents BOOLEAN DEFAULT false NOT NULL")


def downgrade() -> None:
    """Revert it."""
    op.execute("ALTER TABLE thread_share DROP COLUMN with_documents")
