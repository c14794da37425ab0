"""What a call asks of the ledger is found by index from the first call on.

A server keeps the plans of its functions. Made while the tables were all but empty, they read them whole, and went on doing so
until the statistics were first brought up to date: a minute in which each settlement read all calls there were.

Revision: 0014
Revises: 0013
"""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

FUNCTIONS = (
    "gateway_admit",
    "gateway_admit_many",
    "gateway_settle",
    "gateway_settle_many",
    "gateway_fail",
    "credit_hold_extend",
    "credit_hold_grow",
)


def upgrade() -> None:
    for name in FUNCTIONS:
        op.execute(f"ALTER FUNCTION {name} SET enable_seqscan = off")


def downgrade() -> None:
    for name in FUNCTIONS:
        op.execute(f"ALTER FUNCTION {name} RESET enable_seqscan")
