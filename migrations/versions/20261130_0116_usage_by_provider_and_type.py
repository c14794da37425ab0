"""Usage is counted by provider and type of call. Older rollups are counted anew by the job `usage.recount_accounts`.

Revision: 0116
Revises: 0115
"""

from migrations.indexing import build_indexes
from migrations.replacing import replace_function, restore_function, run_script

revision = "0116"
down_revision = "0115"
branch_labels = None
depends_on = None

FUNCTIONS = (
    "ledger/usage_type",
    "ledger/gateway_settle",
    "ledger/usage_recount",
    "ledger/usage_follow_failure",
    "usage/usage_calls",
)
COLUMNS = """
ALTER TABLE usage_rollup
    ADD COLUMN IF NOT EXISTS provider text NOT NULL DEFAULT '',
    ADD COLUMN IF NOT EXISTS type text NOT NULL DEFAULT '';
"""
OLD_CELL = "account_id, grain, bucket, user_id, model, agent_id, key_id, error"
CELL = f"{OLD_CELL}, provider, type"
INDEXES = {"idx_usage_rollup_cell": f"usage_rollup ({CELL})"}
UP = """
ALTER TABLE usage_rollup DROP CONSTRAINT usage_rollup_pk;
ALTER TABLE usage_rollup ADD CONSTRAINT usage_rollup_pk PRIMARY KEY USING INDEX idx_usage_rollup_cell;
INSERT INTO usage_recounting (account_id, day) SELECT id, date_trunc('day', now(), 'UTC') FROM credit_account
ON CONFLICT (account_id) DO UPDATE SET day = excluded.day;
"""
SUMS = (
    *(
        "calls",
        "input_tokens",
        "cache_write_tokens",
        "cache_read_tokens",
        "output_tokens",
        "reasoning_tokens",
    ),
    *("cost", "credits", "latency_ms", "ttft_ms", "ttft_calls", "failed"),
)
DOWN = f"""
CREATE TEMP TABLE merged_rollup ON COMMIT DROP AS
SELECT {OLD_CELL}, {", ".join(f"sum({name}) AS {name}" for name in SUMS)}, max(latency_max) AS latency_max,
    ARRAY[{", ".join(f"sum(latency_hist[{slot}])::int" for slot in range(1, 17))}] AS latency_hist
FROM usage_rollup GROUP BY {OLD_CELL};
TRUNCATE usage_rollup;
ALTER TABLE usage_rollup DROP CONSTRAINT usage_rollup_pk;
ALTER TABLE usage_rollup DROP COLUMN provider, DROP COLUMN type;
INSERT INTO usage_rollup ({OLD_CELL}, {", ".join(SUMS)}, latency_max, latency_hist) SELECT * FROM merged_rollup;
ALTER TABLE usage_rollup ADD CONSTRAINT usage_rollup_pk PRIMARY KEY ({OLD_CELL});
"""


def upgrade() -> None:
    """Apply the migration. Safe to run again: the columns and the index are committed before the rest, which is one transaction."""
    run_script(COLUMNS)
    build_indexes(INDEXES, unique=True)
    run_script(UP)
    for name in FUNCTIONS:
        replace_function(name, revision)


def downgrade() -> None:
    """Revert it. Rollups of several providers or types become one."""
    for name in reversed(FUNCTIONS):
        restore_function(name, revision)
    run_script(DOWN)
