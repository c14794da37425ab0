"""Personal keys that are authorised for an organisation which enforces single sign-on.

Revision: 0076
Revises: 0075
"""

from migrations.replacing import replace_function, restore_function, run_script

revision = "0076"
down_revision = "0075"
branch_labels = None
depends_on = None

FUNCTIONS = ("ledger/gateway_payer", "ledger/gateway_admit", "ledger/gateway_admit_many")

UP = """
CREATE TABLE org_sso_key (
    session_token text NOT NULL,
    org_id text NOT NULL,
    user_id text NOT NULL,
    authorized_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT org_sso_key_pk PRIMARY KEY (session_token, org_id),
    CONSTRAINT "org_sso_key_session_token_fk" FOREIGN KEY (session_token) REFERENCES session ("sessionToken") ON DELETE CASCADE,
    CONSTRAINT org_sso_key_member_fk FOREIGN KEY (org_id, user_id) REFERENCES org_member (org_id, user_id) ON DELETE CASCADE
);
CREATE INDEX idx_org_sso_key_member ON org_sso_key (org_id, user_id);
"""


def upgrade() -> None:
    run_script(UP)
    for name in FUNCTIONS:
        replace_function(name, revision)


def downgrade() -> None:
    for name in reversed(FUNCTIONS):
        restore_function(name, revision)
    run_script("DROP TABLE org_sso_key")
