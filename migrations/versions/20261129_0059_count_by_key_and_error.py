"""Usage is counted by key and error. Older rollups are counted anew by the job `usage.recount_accounts`.

Revision: 0059
Revises: 0058
"""

from migrations.replacing import replace_function, restore_function, run_script

revision = "0059"
down_revision = "0058"
branch_labels = None
depends_on = None

FUNCTIONS = (
    "ledger/gateway_settle",
    "ledger/gateway_refuse",
    "ledger/usage_recount",
    "ledger/usage_follow_failure",
    "usage/usage_calls",
    "usage/org_usage_cells",
)
UP = """
ALTER TABLE usage_rollup DROP CONSTRAINT usage_rollup_pk;
ALTER TABLE usage_rollup ADD CONSTRAINT usage_rollup_pk PRIMARY KEY USING INDEX idx_usage_rollup_cell;
CREATE TABLE usage_recounting (
    account_id text NOT NULL,
    day timestamptz NOT NULL,
    CONSTRAINT usage_recounting_pk PRIMARY KEY (account_id),
    CONSTRAINT usage_recounting_account_id_fk FOREIGN KEY (account_id) REFERENCES credit_account (id) ON DELETE CASCADE
);
INSERT INTO usage_recounting (account_id, day) SELECT id, date_trunc('day', now(), 'UTC') FROM credit_account;
DELETE FROM org_usage_state;
DELETE FROM org_usage;
"""
SUMS = (
    "calls",
    "input_tokens",
    "cache_write_tokens",
    "cache_read_tokens",
    "output_tokens",
    "reasoning_tokens",
    "cost",
    "credits",
    "latency_ms",
    "ttft_ms",
    "ttft_calls",
)
CELL = "account_id, grain, bucket, user_id, model, agent_id"
DOWN = f"""
DROP TABLE usage_recounting;
CREATE TEMP TABLE merged_rollup ON COMMIT DROP AS
SELECT {CELL}, {", ".join(f"sum({name}) AS {name}" for name in SUMS)},
    ARRAY[{", ".join(f"sum(latency_hist[{slot}])::int" for slot in range(1, 17))}] AS latency_hist
FROM usage_rollup WHERE error = '' GROUP BY {CELL};
TRUNCATE usage_rollup;
INSERT INTO usage_rollup ({CELL}, {", ".join(SUMS)}, latency_hist) SELECT * FROM merged_rollup;
ALTER TABLE usage_rollup DROP CONSTRAINT usage_rollup_pk;
ALTER TABLE usage_rollup ADD CONSTRAINT usage_rollup_pk PRIMARY KEY ({CELL});
CREATE UNIQUE INDEX idx_usage_rollup_cell ON usage_rollup ({CELL}, key_id, error);
DELETE FROM org_usage_state;
DELETE FROM org_usage;
"""


def upgrade() -> None:
    run_script(UP)
    for name in FUNCTIONS:
        replace_function(name, revision)


def downgrade() -> None:
    for name in reversed(FUNCTIONS):
        restore_function(name, revision)
    run_script(DOWN)
