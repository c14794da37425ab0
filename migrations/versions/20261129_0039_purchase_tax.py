"""Tax of purchases: its part of the amount, and the calculation, transaction and reversals at Stripe Tax.

Revision: 0039
Revises: 0038
"""

from migrations.replacing import run_script

revision = "0039"
down_revision = "0038"
branch_labels = None
depends_on = None

UP = """
ALTER TABLE purchase
    ADD COLUMN tax_cents bigint NOT NULL DEFAULT 0,
    ADD COLUMN tax_lines jsonb,
    ADD COLUMN tax_calculation_id text,
    ADD COLUMN tax_transaction_id text,
    ADD CONSTRAINT purchase_tax_bounded CHECK (tax_cents >= 0 AND tax_cents < amount_cents);
ALTER TABLE purchase_refund ADD COLUMN tax_reversal_id text;
"""

DOWN = """
ALTER TABLE purchase_refund DROP COLUMN tax_reversal_id;
ALTER TABLE purchase
    DROP CONSTRAINT purchase_tax_bounded,
    DROP COLUMN tax_transaction_id,
    DROP COLUMN tax_calculation_id,
    DROP COLUMN tax_lines,
    DROP COLUMN tax_cents;
"""


def upgrade() -> None:
    run_script(UP)


def downgrade() -> None:
    run_script(DOWN)
