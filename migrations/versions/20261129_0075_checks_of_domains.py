"""When the records of proven domains were looked for and missed, and since when a domain is paused.

Revision: 0075
Revises: 0074
"""

from migrations.replacing import run_script

revision = "0075"
down_revision = "0074"
branch_labels = None
depends_on = None

UP = """
ALTER TABLE org_domain ADD COLUMN checked_at timestamptz;
ALTER TABLE org_domain ADD COLUMN missing_since timestamptz;
ALTER TABLE org_domain ADD COLUMN misses smallint NOT NULL DEFAULT 0;
ALTER TABLE org_domain ADD COLUMN paused_at timestamptz;
"""

DOWN = """
ALTER TABLE org_domain DROP COLUMN paused_at;
ALTER TABLE org_domain DROP COLUMN misses;
ALTER TABLE org_domain DROP COLUMN missing_since;
ALTER TABLE org_domain DROP COLUMN checked_at;
"""


def upgrade() -> None:
    """Apply the migration."""
    run_script(UP)


def downgrade() -> None:
    """Revert it."""
    run_script(DOWN)
