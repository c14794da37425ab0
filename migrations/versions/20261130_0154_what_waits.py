"""What waits for a person in all projects is counted on each page.

Revision: 0154
Revises: 0153
"""

from alembic import op

revision = "0154"
down_revision = "0153"
branch_labels = None
depends_on = None

INDEXES = {
    "idx_action_item_critical": "action_item (project_id) WHERE status = 'pending' AND severity = 'critical'",
    "idx_project_decision_proposed": "project_decision (project_id) WHERE state = 'proposed'",
}


def upgrade() -> None:
    """Apply the migration."""
    with op.get_context().autocommit_block():
        for name, columns in INDEXES.items():
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.execute(f"CREATE INDEX CONCURRENTLY {name} ON {columns}")


def downgrade() -> None:
    """Revert it."""
    with op.get_context().autocommit_block():
        for name in INDEXES:
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
