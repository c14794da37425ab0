"""Rollups by key and error: the columns, and the indexes that the next migration uses.

Revision: 0058
Revises: 0057
"""

from migrations.indexing import build_indexes
from migrations.replacing import run_script

revision = "0058"
down_revision = "0057"
branch_labels = None
depends_on = None

UP = """
ALTER TABLE usage_rollup
    ADD COLUMN key_id text NOT NULL DEFAULT '',
    ADD COLUMN error text NOT NULL DEFAULT '',
    ADD COLUMN failed int NOT NULL DEFAULT 0,
    ADD COLUMN latency_max int NOT NULL DEFAULT 0;
ALTER TABLE org_usage
    ADD COLUMN failed bigint NOT NULL DEFAULT 0,
    ADD COLUMN latency_max int NOT NULL DEFAULT 0;
"""
INDEXES = {
    "idx_usage_rollup_cell": "usage_rollup (account_id, grain, bucket, user_id, model, agent_id, key_id, error)",
}
DOWN = """
DROP INDEX IF EXISTS idx_usage_rollup_cell;
ALTER TABLE org_usage DROP COLUMN failed, DROP COLUMN latency_max;
ALTER TABLE usage_rollup DROP COLUMN key_id, DROP COLUMN error, DROP COLUMN failed, DROP COLUMN latency_max;
"""


def upgrade() -> None:
    run_script(UP)
    build_indexes(INDEXES, unique=True)


def downgrade() -> None:
    run_script(DOWN)
