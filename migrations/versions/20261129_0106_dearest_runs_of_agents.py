"""Dearest and longest runs of an agent by indexes; the constraint of the migration before.

Revision: 0106
Revises: 0105
"""

from alembic import op

from migrations.indexing import build_indexes, drop_indexes

revision = "0106"
down_revision = "0105"
branch_labels = None
depends_on = None

INDEXES = {
    "idx_agent_run_account_agent_credits": "agent_run ((COALESCE(org_id, user_id)), agent_id, settled_credits, created_at, id)",
    "idx_agent_run_account_agent_duration": """agent_run ((COALESCE(org_id, user_id)), agent_id, duration_ms, created_at, id)
        WHERE duration_ms IS NOT NULL""",
}


def upgrade() -> None:
    """Apply the migration."""
    op.execute("ALTER TABLE usage_rollup VALIDATE CONSTRAINT usage_rollup_grain_known")
    build_indexes(INDEXES)


def downgrade() -> None:
    """Revert it."""
    drop_indexes(INDEXES)
    op.execute("ALTER TABLE usage_rollup DROP CONSTRAINT usage_rollup_grain_known")
    op.execute(
        "ALTER TABLE usage_rollup ADD CONSTRAINT usage_rollup_grain_known"
        " CHECK (split_part(grain, ' ', 1) = ANY (ARRAY['hour', 'day', 'week'])) NOT VALID"
    )
