"""Messages keep the item of OpenAI's Conversations API that they are, and may be removed from their branch.

Revision: 0120
Revises: 0119

The table is new: no release has filled it.
"""

from alembic import op

revision = "0120"
down_revision = "0119"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the migration."""
    op.execute(
        "ALTER TABLE thread_message ADD COLUMN item JSONB, ADD COLUMN removed_at TIMESTAMP WITH TIME ZONE"
    )


def downgrade() -> None:
    """Revert it."""
    op.execute("ALTER TABLE thread_message DROP COLUMN item, DROP COLUMN removed_at")
