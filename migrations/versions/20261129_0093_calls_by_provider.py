"""An index for the list of calls by provider."""

from migrations.indexing import build_indexes, drop_indexes

revision = "0093"
down_revision = "0092"
branch_labels = None
depends_on = None

INDEXES = {"idx_gateway_call_provider": "gateway_call (account_id, provider, finished_at)"}


def upgrade() -> None:
    """Apply the migration."""
    build_indexes(INDEXES)


def downgrade() -> None:
    """Revert it."""
    drop_indexes(INDEXES)
