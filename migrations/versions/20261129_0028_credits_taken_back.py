"""What a refund or a dispute took back of a grant can be told and given back.

The check of entries' kinds is exchanged for a wider one without reading the table; every row passes it that passed the
old one. The next migration validates it.

Revision: 0028
Revises: 0027
"""

from migrations.replacing import replace_function, restore_function, run_script

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None

FUNCTIONS = ("ledger/credit_take_back",)

UP = """
ALTER TABLE credit_entry DROP CONSTRAINT credit_entry_kind_known;
ALTER TABLE credit_entry ADD CONSTRAINT credit_entry_kind_known
    CHECK (kind IN ('grant', 'debit', 'expiry', 'revocation', 'reinstatement', 'debt_cleared')) NOT VALID;
"""

DOWN = """
ALTER TABLE credit_entry DROP CONSTRAINT credit_entry_kind_known;
ALTER TABLE credit_entry ADD CONSTRAINT credit_entry_kind_known
    CHECK (kind IN ('grant', 'debit', 'expiry', 'revocation', 'debt_cleared'));
"""


def upgrade() -> None:
    run_script(UP)
    for name in FUNCTIONS:
        replace_function(name, revision)


def downgrade() -> None:
    for name in reversed(FUNCTIONS):
        restore_function(name, revision)
    run_script(DOWN)
