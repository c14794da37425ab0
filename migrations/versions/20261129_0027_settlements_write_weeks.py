"""Settlements add to the rollup of their week, so that a year of usage is read from a seventh of the rows.

Past weeks never change: they are filled in first, without a lock. Settlements wait only while the running week is.

Revision: 0027
Revises: 0026
"""

from alembic import op

from migrations.replacing import replace_function, restore_function

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None

FILL = """
INSERT INTO usage_rollup (
    account_id, grain, bucket, user_id, model, agent_id, calls, input_tokens, cache_write_tokens, cache_read_tokens,
    output_tokens, reasoning_tokens, cost, credits, latency_ms, ttft_ms, ttft_calls, latency_hist
)
SELECT account_id, 'week', date_trunc('week', bucket, 'UTC'), user_id, model, agent_id, sum(calls), sum(input_tokens),
    sum(cache_write_tokens), sum(cache_read_tokens), sum(output_tokens), sum(reasoning_tokens), sum(cost), sum(credits),
    sum(latency_ms), sum(ttft_ms), sum(ttft_calls), ARRAY[{histogram}]
FROM usage_rollup
WHERE grain = 'day' AND {days}
GROUP BY 1, 3, 4, 5, 6
"""
HISTOGRAM = ", ".join(f"sum(latency_hist[{number}])" for number in range(1, 17))
THIS_WEEK = "date_trunc('week', now(), 'UTC')"
SETTLED = f"{THIS_WEEK} - interval '1 week'"
"""Days before this one are complete: a settlement that began in them ended long ago."""


def upgrade() -> None:
    op.execute("ALTER TABLE usage_rollup VALIDATE CONSTRAINT usage_rollup_grain_known")
    op.execute(FILL.format(histogram=HISTOGRAM, days=f"bucket < {SETTLED}"))
    op.execute("LOCK TABLE usage_rollup IN SHARE ROW EXCLUSIVE MODE")
    op.execute(FILL.format(histogram=HISTOGRAM, days=f"bucket >= {SETTLED}"))
    replace_function("ledger/gateway_settle", revision)


def downgrade() -> None:
    restore_function("ledger/gateway_settle", revision)
    op.execute("DELETE FROM usage_rollup WHERE grain = 'week'")
    op.execute("ALTER TABLE usage_rollup DROP CONSTRAINT usage_rollup_grain_known")
    op.execute(
        "ALTER TABLE usage_rollup ADD CONSTRAINT usage_rollup_grain_known"
        " CHECK (grain = ANY (ARRAY['hour'::text, 'day'::text, 'week'::text])) NOT VALID"
    )
