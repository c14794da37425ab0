"""Disputes of the payments of plans, and early fraud warnings of them.

Revision: 0040
Revises: 0039
"""

from migrations.replacing import run_script

revision = "0040"
down_revision = "0039"
branch_labels = None
depends_on = None

UP = """
CREATE TABLE subscription_dispute (
    id text NOT NULL,
    invoice_id text NOT NULL,
    amount_cents bigint NOT NULL,
    withdrawn_cents bigint NOT NULL,
    status text NOT NULL,
    reason text,
    created_at timestamptz NOT NULL,
    cleared_at timestamptz,
    CONSTRAINT subscription_dispute_pk PRIMARY KEY (id),
    CONSTRAINT subscription_dispute_invoice_id_fk FOREIGN KEY (invoice_id) REFERENCES subscription_invoice (id) ON DELETE CASCADE
);
CREATE INDEX idx_subscription_dispute_invoice ON subscription_dispute (invoice_id);
ALTER TABLE subscription_invoice ADD COLUMN fraud_warning_id text;
"""

DOWN = """
ALTER TABLE subscription_invoice DROP COLUMN fraud_warning_id;
DROP TABLE subscription_dispute;
"""


def upgrade() -> None:
    run_script(UP)


def downgrade() -> None:
    run_script(DOWN)
