"""Changes of an account's e-mail address that wait for their confirmation.

Revision: 0078
Revises: 0077
"""

from migrations.replacing import run_script

revision = "0078"
down_revision = "0077"
branch_labels = None
depends_on = None

UP = """
CREATE TABLE email_change (
    user_id text NOT NULL,
    token_hash text NOT NULL,
    email text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    CONSTRAINT email_change_pk PRIMARY KEY (user_id),
    CONSTRAINT email_change_user_id_fk FOREIGN KEY (user_id) REFERENCES "user" (id) ON DELETE CASCADE
);
CREATE INDEX ix_email_change_expires_at ON email_change (expires_at);
"""


def upgrade() -> None:
    """Apply the migration."""
    run_script(UP)


def downgrade() -> None:
    """Revert it."""
    run_script("DROP TABLE email_change")
