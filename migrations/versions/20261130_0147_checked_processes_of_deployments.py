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
DOWN = """
ALTER TABLE deployment
    DROP CONSTRAINT deployment_state_known,
    ADD CONSTRAINT deployment_state_known CHECK (state = ANY (ARRAY['restarting', 'queued', 'building', 'releasing',
        'checking', 'live', 'failed', 'rolled_back', 'stopped'])) NOT VALID;
"""


def upgrade() -> None:
    """Apply the migration."""
    run_script(UP)


def downgrade() -> None:
    """Revert it."""
    run_script(DOWN)
