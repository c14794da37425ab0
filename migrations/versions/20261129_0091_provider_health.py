"""Health of providers by model; indexes for their failed calls and for open deliveries of webhooks.

Revision: 0091
Revises: 0090
"""

from migrations.indexing import build_indexes, drop_indexes
from migrations.replacing import run_script

revision = "0091"
down_revision = "0090"
branch_labels = None
depends_on = None

UP = """
CREATE TABLE provider_rollup (
    grain text NOT NULL,
    bucket timestamptz NOT NULL,
    provider text NOT NULL,
    model text NOT NULL,
    error text NOT NULL,
    calls bigint NOT NULL,
    latency_hist int[] NOT NULL,
    latency_max int NOT NULL,
    ttft_hist int[] NOT NULL,
    ttft_max int NOT NULL,
    last_at timestamptz NOT NULL,
    CONSTRAINT provider_rollup_pk PRIMARY KEY (grain, bucket, provider, model, error),
    CONSTRAINT provider_rollup_grain_known CHECK (grain = ANY (ARRAY['minutes'::text, 'hour'::text, 'quarter'::text]))
);
CREATE TABLE provider_counting (
    id int CONSTRAINT provider_counting_pk PRIMARY KEY,
    until timestamptz NOT NULL,
    CONSTRAINT provider_counting_one_row CHECK (id = 1)
);
"""
INDEXES = {
    "idx_gateway_call_provider_trouble": """gateway_call (provider, finished_at, request_id)
        WHERE provider IS NOT NULL AND (state = 'failed' OR error IS NOT NULL)""",
    "idx_org_webhook_delivery_open": "org_webhook_delivery (state, created_at, id) WHERE state <> 'delivered'",
}


def upgrade() -> None:
    """Apply the migration."""
    run_script(UP)
    build_indexes(INDEXES)


def downgrade() -> None:
    """Revert it."""
    drop_indexes(INDEXES)
    run_script("DROP TABLE provider_counting; DROP TABLE provider_rollup;")
