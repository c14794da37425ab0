"""Deleted service accounts keep their row, so that their users are never taken for people."""

from migrations.replacing import run_script

revision = "0047"
down_revision = "0046"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_script("ALTER TABLE service_account ADD COLUMN deleted_at timestamptz")


def downgrade() -> None:
    run_script("ALTER TABLE service_account DROP COLUMN deleted_at")
