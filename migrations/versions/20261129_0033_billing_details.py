"""Billing details of accounts: name, address and tax ids.

Revision: 0033
Revises: 0032
"""

from migrations.replacing import run_script

revision = "0033"
down_revision = "0032"
branch_labels = None
depends_on = None

UP = """
CREATE TABLE billing_details (
    account_id text NOT NULL,
    user_id text,
    org_id text,
    details jsonb NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT billing_details_pk PRIMARY KEY (account_id),
    CONSTRAINT billing_details_user_id_fk FOREIGN KEY (user_id) REFERENCES "user" (id) ON DELETE CASCADE,
    CONSTRAINT billing_details_org_id_fk FOREIGN KEY (org_id) REFERENCES org (id) ON DELETE CASCADE,
    CONSTRAINT billing_details_single_owner
        CHECK (num_nonnulls(user_id, org_id) = 1 AND account_id = coalesce(org_id, user_id))
);
CREATE INDEX idx_billing_details_user ON billing_details (user_id) WHERE user_id IS NOT NULL;
CREATE INDEX idx_billing_details_org ON billing_details (org_id) WHERE org_id IS NOT NULL;
"""


def upgrade() -> None:
    run_script(UP)


def downgrade() -> None:
    run_script("DROP TABLE billing_details;")
