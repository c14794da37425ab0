"""Who asked for a device code, and whether it was refused.

Revision: 0064
Revises: 0062
"""

from migrations.replacing import run_script

revision = "0064"
down_revision = "0063"
branch_labels = None
depends_on = None

UP = """
CREATE TABLE device_request (
    hash text CONSTRAINT device_request_pk PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT now(),
    address text,
    client text,
    refused_at timestamptz
);
CREATE INDEX ix_device_request_created_at ON device_request (created_at);
"""


def upgrade() -> None:
    """Apply the migration."""
    run_script(UP)


def downgrade() -> None:
    """Revert it."""
    run_script("DROP TABLE device_request;")
