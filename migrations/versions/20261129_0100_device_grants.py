"""Sign-in of clients by OAuth device grant, and the settings that organisations manage for them; sessions of clients with keys that
have an id of their own.

Revision: 0100
Revises: 0099
"""

from migrations.replacing import replace_function, restore_function, run_script

revision = "0100"
down_revision = "0099"
branch_labels = None
depends_on = None

UP = """
CREATE TABLE oauth_device_grant (
    device_hash text CONSTRAINT oauth_device_grant_pk PRIMARY KEY,
    user_code text NOT NULL CONSTRAINT oauth_device_grant_user_code_unique UNIQUE,
    client text,
    address text,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    poll_seconds int NOT NULL,
    polled_at timestamptz,
    refused_at timestamptz,
    session_token text CONSTRAINT oauth_device_grant_session_token_fk REFERENCES session ("sessionToken") ON DELETE SET NULL,
    family text,
    collected_at timestamptz
);
CREATE INDEX ix_oauth_device_grant_created_at ON oauth_device_grant (created_at);
CREATE INDEX idx_oauth_device_grant_session ON oauth_device_grant (session_token);
CREATE TABLE oauth_refresh_token (
    token_hash text CONSTRAINT oauth_refresh_token_pk PRIMARY KEY,
    session_token text NOT NULL CONSTRAINT oauth_refresh_token_session_token_fk
        REFERENCES session ("sessionToken") ON DELETE CASCADE,
    family text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    used_at timestamptz
);
CREATE INDEX idx_oauth_refresh_token_session ON oauth_refresh_token (session_token);
CREATE TABLE org_client_settings (
    org_id text CONSTRAINT org_client_settings_pk PRIMARY KEY
        CONSTRAINT org_client_settings_org_id_fk REFERENCES org (id) ON DELETE CASCADE,
    settings jsonb NOT NULL,
    checksum text NOT NULL,
    updated_by text CONSTRAINT org_client_settings_updated_by_fk REFERENCES "user" (id) ON DELETE SET NULL,
    updated_at timestamptz NOT NULL DEFAULT now()
);
"""


def upgrade() -> None:
    """Apply the migration."""
    run_script(UP)
    replace_function("runs/client_session_run", revision)


def downgrade() -> None:
    """Revert it."""
    restore_function("runs/client_session_run", revision)
    run_script(
        "DROP TABLE org_client_settings; DROP TABLE oauth_refresh_token; DROP TABLE oauth_device_grant;"
    )
