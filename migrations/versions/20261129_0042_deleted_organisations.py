"""Keys of deleted organisations keep their expiry for a restoration.

Revision: 0042
Revises: 0041
"""

from migrations.replacing import run_script

revision = "0042"
down_revision = "0041"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_script("""
    ALTER TABLE session ADD COLUMN kept_expires timestamp;
    CREATE INDEX idx_org_deleted ON org (deleted_at) WHERE deleted_at IS NOT NULL;
    """)


def downgrade() -> None:
    run_script("""
    DROP INDEX idx_org_deleted;
    ALTER TABLE session DROP COLUMN kept_expires;
    """)
