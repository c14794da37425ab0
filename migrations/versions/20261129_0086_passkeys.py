"""Passkeys, and the challenges that were answered with them.

Revision: 0086
Revises: 0085
"""

from migrations.replacing import run_script

revision = "0086"
down_revision = "0085"
branch_labels = None
depends_on = None

UP = """
CREATE TABLE passkey (
    id text NOT NULL DEFAULT (gen_random_uuid())::text,
    user_id text NOT NULL,
    credential_id bytea NOT NULL,
    public_key bytea NOT NULL,
    sign_count bigint NOT NULL,
    transports text[] NOT NULL,
    name text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    last_used_at timestamptz,
    last_used_ip text,
    CONSTRAINT passkey_pk PRIMARY KEY (id),
    CONSTRAINT passkey_credential_id_unique UNIQUE (credential_id),
    CONSTRAINT passkey_user_id_fk FOREIGN KEY (user_id) REFERENCES "user" (id) ON DELETE CASCADE
);
CREATE INDEX ix_passkey_user_id ON passkey (user_id);
CREATE TABLE spent_challenge (
    challenge_hash text NOT NULL,
    expires_at timestamptz NOT NULL,
    CONSTRAINT spent_challenge_pk PRIMARY KEY (challenge_hash)
);
CREATE INDEX ix_spent_challenge_expires_at ON spent_challenge (expires_at);
"""
DOWN = """
DROP TABLE spent_challenge;
DROP TABLE passkey;
"""


def upgrade() -> None:
    run_script(UP)


def downgrade() -> None:
    run_script(DOWN)
