"""The check of the condition that 0146 changed.

Revision: 0147
Revises: 0146
"""

from migrations.replacing import run_script

revision = "0147"
down_revision = "0146"
branch_labels = None
depends_on = None

UP = "ALTER TABLE deployment VALIDATE CONSTRAINT deployment_state_known;"


def upgrade() -> None:
    """Apply the migration."""
    run_script(UP)


def downgrade() -> None:
    """Nothing: what was checked stays so."""
