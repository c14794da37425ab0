"""Whether checks run before a workspace deploys by itself.

Revision: 0145
Revises: 0142
"""

from migrations.replacing import run_script

revision = "0145"
down_revision = "0142"
branch_labels = None
depends_on = None

UP = "ALTER TABLE deployment_setting ADD COLUMN run_checks boolean NOT NULL DEFAULT false;"
DOWN = "ALTER TABLE deployment_setting DROP COLUMN run_checks;"


def upgrade() -> None:
    """Apply the migration."""
    run_script(UP)


def downgrade() -> None:
    """Revert it."""
    run_script(DOWN)
