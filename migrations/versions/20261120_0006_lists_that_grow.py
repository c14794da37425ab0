"""For lists that grow: runs of one state in order of time, and that a call's payer mostly follows from its caller, without
which PostgreSQL sorts all calls of a person to find the latest ten.

Revision: 0006
Revises: 0005
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE INDEX idx_agent_run_user_state ON agent_run (user_id, status, created_at)")
    op.execute("CREATE STATISTICS gateway_call_payer (dependencies) ON user_id, account_id FROM gateway_call")
    op.execute("ANALYZE gateway_call (user_id, account_id)")


def downgrade() -> None:
    op.execute("DROP STATISTICS gateway_call_payer")
    op.execute("DROP INDEX idx_agent_run_user_state")
