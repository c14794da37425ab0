"""The last message that the session of a conversation's command knows.

Revision: 0157
Revises: 0149
"""

from migrations.replacing import run_script

revision = "0157"
down_revision = "0149"
branch_labels = None
depends_on = None

UP = """
ALTER TABLE conversation ADD COLUMN agent_session_at text;
"""
DOWN = """
ALTER TABLE conversation DROP COLUMN agent_session_at;
"""


def upgrade() -> None:
    """Apply the migration."""
    run_script(UP)


def downgrade() -> None:
    """Revert it."""
    run_script(DOWN)
