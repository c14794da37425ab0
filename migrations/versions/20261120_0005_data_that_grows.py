"""Indexes for data that grows: a person's messages in order of time for the export, and messages whose bodies are
still kept, oldest first, for dropping them.

Revision: 0005
Revises: 0004
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Not CONCURRENTLY: it waits for old pictures, and another machine that waits for the migration lock holds one.
    op.execute("CREATE INDEX idx_message_user_finished ON message (user_id, finished_at)")
    op.execute(
        "CREATE INDEX idx_message_bodies ON message (finished_at)"
        " WHERE request IS NOT NULL OR reasoning_text <> '' OR response <> 'null'::jsonb"
    )


def downgrade() -> None:
    op.execute("DROP INDEX idx_message_bodies")
    op.execute("DROP INDEX idx_message_user_finished")
