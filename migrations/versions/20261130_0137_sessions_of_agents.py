"""The sessions of commands that answer conversations, with which their next turns go on.

Revision: 0137
Revises: 0145
"""

from migrations.replacing import run_script

revision = "0137"
down_revision = "0145"
branch_labels = None
depends_on = None

UP = """
ALTER TABLE conversation ADD COLUMN agent_session text;
"""
DOWN = """
ALTER TABLE conversation DROP COLUMN agent_session;
"""


def upgrade() -> None:
    """Apply the migration."""
    run_script(UP)


def downgrade() -> None:
    """Revert it."""
    run_script(DOWN)
