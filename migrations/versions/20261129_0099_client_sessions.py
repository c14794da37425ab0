"""Runs of the sessions of unmodified clients.

Revision: 0099
Revises: 0097
"""

from migrations.replacing import replace_function, restore_function, run_script

revision = "0099"
down_revision = "0097"
branch_labels = None
depends_on = None

UP = """
CREATE TABLE client_session (
    id text CONSTRAINT client_session_pk PRIMARY KEY,
    user_id text NOT NULL CONSTRAINT client_session_user_id_fk REFERENCES "user" (id) ON DELETE CASCADE,
    run_id text NOT NULL CONSTRAINT client_session_run_id_fk REFERENCES agent_run (id) ON DELETE CASCADE,
    created_at timestamptz NOT NULL,
    opened_at timestamptz NOT NULL,
    ended_at timestamptz
);
CREATE INDEX idx_client_session_user ON client_session (user_id, created_at);
CREATE INDEX idx_client_session_run ON client_session (run_id);
CREATE INDEX idx_client_session_open ON client_session (opened_at) WHERE ended_at IS NULL;
CREATE INDEX idx_client_session_ended ON client_session (ended_at) WHERE ended_at IS NOT NULL;
"""
FUNCTIONS = ("runs/client_session_open", "runs/client_session_run")


def upgrade() -> None:
    """Apply the migration."""
    run_script(UP)
    for name in FUNCTIONS:
        replace_function(name, revision)


def downgrade() -> None:
    """Revert it."""
    for name in reversed(FUNCTIONS):
        restore_function(name, revision)
    run_script("DROP TABLE client_session;")
