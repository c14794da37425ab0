"""An index for the statement: what came in, ran out or was taken back, apart from the many charges of calls.

Revision: 0004
Revises: 0003
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE INDEX idx_credit_entry_other ON credit_entry (account_id, id) WHERE kind <> 'debit'")


def downgrade() -> None:
    op.execute("DROP INDEX idx_credit_entry_other")
