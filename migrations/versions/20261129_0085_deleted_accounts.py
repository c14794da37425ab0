"""When a user deleted their account, and when it was erased.

Revision: 0085
Revises: 0084
"""

from migrations.indexing import build_indexes, drop_indexes
from migrations.replacing import run_script

revision = "0085"
down_revision = "0084"
branch_labels = None
depends_on = None

UP = """
ALTER TABLE "user" ADD COLUMN deleted_at timestamptz;
ALTER TABLE "user" ADD COLUMN erased_at timestamptz;
"""

INDEXES = {"idx_user_deleted": '"user" (deleted_at) WHERE deleted_at IS NOT NULL AND erased_at IS NULL'}

DOWN = """
ALTER TABLE "user" DROP COLUMN erased_at;
ALTER TABLE "user" DROP COLUMN deleted_at;
"""


def upgrade() -> None:
    """Apply the migration."""
    run_script(UP)
    build_indexes(INDEXES)


def downgrade() -> None:
    """Revert it."""
    drop_indexes(INDEXES)
    run_script(DOWN)
