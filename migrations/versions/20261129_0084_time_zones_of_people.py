"""The time zone and the language of numbers that a user chose.

Revision: 0084
Revises: 0082
"""

from migrations.replacing import run_script

revision = "0084"
down_revision = "0082"
branch_labels = None
depends_on = None

UP = """
ALTER TABLE "user" ADD COLUMN time_zone text;
ALTER TABLE "user" ADD COLUMN number_language text NOT NULL DEFAULT 'en';
"""

DOWN = """
ALTER TABLE "user" DROP COLUMN number_language;
ALTER TABLE "user" DROP COLUMN time_zone;
"""


def upgrade() -> None:
    """Apply the migration."""
    run_script(UP)


def downgrade() -> None:
    """Revert it."""
    run_script(DOWN)
