"""In whose name the programs of a runner's work make model calls.

Revision: 0159
Revises: 0137
"""

from migrations.replacing import run_script

revision = "0159"
down_revision = "0137"
branch_labels = None
depends_on = None

UP = "ALTER TABLE runner_work ADD COLUMN calls_as jsonb;"
DOWN = "ALTER TABLE runner_work DROP COLUMN calls_as;"


def upgrade() -> None:
    """Apply the migration."""
    run_script(UP)


def downgrade() -> None:
    """Revert it."""
    run_script(DOWN)
