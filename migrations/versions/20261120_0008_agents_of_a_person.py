"""An index that leads from one agent of a person to the next, so that a part of a name is looked for among the agents and
not among the runs.

Revision: 0008
Revises: 0007
"""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE INDEX idx_agent_run_user_agent ON agent_run (user_id, agent_id, created_at)")


def downgrade() -> None:
    op.execute("DROP INDEX idx_agent_run_user_agent")
