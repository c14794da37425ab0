"""Claims of idempotency keys by model calls, with their answers.

Revision: 0102
Revises: 0101
"""

from migrations.replacing import replace_function, restore_function, run_script

revision = "0102"
down_revision = "0101"
branch_labels = None
depends_on = None

UP = """
CREATE TABLE idempotent_call (
    request_id text CONSTRAINT idempotent_call_pk PRIMARY KEY,
    user_id text NOT NULL CONSTRAINT idempotent_call_user_id_fk REFERENCES "user" ON DELETE CASCADE,
    org_id text,
    key_hash text NOT NULL,
    fingerprint text NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    settled_at timestamptz,
    status int,
    content_type text,
    headers jsonb,
    answer bytea,
    CONSTRAINT idempotent_call_once UNIQUE NULLS NOT DISTINCT (user_id, org_id, key_hash)
);
ALTER TABLE idempotent_call ALTER COLUMN answer SET STORAGE EXTERNAL;
CREATE INDEX idx_idempotent_call_expiry ON idempotent_call (expires_at);
"""
FUNCTIONS = ("ledger/idempotent_claim", "ledger/idempotent_release", "ledger/idempotent_settle")


def upgrade() -> None:
    """Apply the migration."""
    run_script(UP)
    for name in FUNCTIONS:
        replace_function(name, revision)


def downgrade() -> None:
    """Revert it."""
    for name in reversed(FUNCTIONS):
        restore_function(name, revision)
    run_script("DROP TABLE idempotent_call;")
