"""An index for the list of calls by provider instead of that by their start: calls are listed by when they finished, so all that is
asked by their start is asked by that too, and settling a call writes as many indexes as before.

Revision: 0093
Revises: 0092
"""

from migrations.indexing import build_indexes, drop_indexes
from migrations.replacing import replace_function, restore_function

revision = "0093"
down_revision = "0092"
branch_labels = None
depends_on = None

BY_PROVIDER = {"idx_gateway_call_provider": "gateway_call (account_id, provider, finished_at)"}
BY_START = {"idx_gateway_call_account": "gateway_call (account_id, started_at)"}


def upgrade() -> None:
    """Apply the migration."""
    replace_function("ledger/plan_admit", revision)
    build_indexes(BY_PROVIDER)
    drop_indexes(BY_START)


def downgrade() -> None:
    """Revert it."""
    build_indexes(BY_START)
    drop_indexes(BY_PROVIDER)
    restore_function("ledger/plan_admit", revision)
