"""Hosts that the checks of a project may fetch packages from.

Revision: 0156
Revises: 0155
"""

from migrations.replacing import run_script

revision = "0156"
down_revision = "0155"
branch_labels = None
depends_on = None

UP = """
ALTER TABLE project
    ADD COLUMN check_hosts text[] NOT NULL DEFAULT '{}',
    ADD CONSTRAINT project_check_hosts_few CHECK (cardinality(check_hosts) <= 20);
"""
DOWN = "ALTER TABLE project DROP COLUMN check_hosts;"


def upgrade() -> None:
    """Apply the migration."""
    run_script(UP)


def downgrade() -> None:
    """Revert it."""
    run_script(DOWN)
