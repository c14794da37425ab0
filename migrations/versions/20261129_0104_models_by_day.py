"""Calls of each model by day: tokens, cost and speed, for the pages of models and for changes of prices. Imports of prices.

All calls of the last 31 days are counted again: the rollups so far have neither tokens nor speed.

Revision: 0104
Revises: 0103
"""

from migrations.replacing import run_script

revision = "0104"
down_revision = "0103"
branch_labels = None
depends_on = None

SUMS = (
    *("input_tokens", "cache_write_tokens", "cache_read_tokens", "output_tokens", "reasoning_tokens"),
    *("spoken_tokens", "spoken_ms"),
)
GRAINS = "'minutes'::text, 'hour'::text, 'quarter'::text"
UP = f"""
DELETE FROM provider_rollup;
DELETE FROM provider_counting;
ALTER TABLE provider_rollup {", ".join(f"ADD {name} bigint NOT NULL DEFAULT 0" for name in SUMS)}, ADD cost numeric NOT NULL DEFAULT 0;
ALTER TABLE provider_rollup DROP CONSTRAINT provider_rollup_grain_known;
ALTER TABLE provider_rollup ADD CONSTRAINT provider_rollup_grain_known
    CHECK (grain = ANY (ARRAY[{GRAINS}, 'day'::text]));
CREATE TABLE price_import (
    id bigint GENERATED ALWAYS AS IDENTITY,
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by text NOT NULL,
    source text NOT NULL,
    prices jsonb NOT NULL,
    state text NOT NULL DEFAULT 'proposed',
    decided_at timestamptz,
    decided_by text,
    effective_at timestamptz,
    result jsonb,
    CONSTRAINT price_import_pk PRIMARY KEY (id),
    CONSTRAINT price_import_state_known CHECK (state = ANY (ARRAY['proposed'::text, 'approved'::text, 'rejected'::text])),
    CONSTRAINT price_import_approved_whole
        CHECK ((state = 'approved'::text) = (effective_at IS NOT NULL AND result IS NOT NULL))
);
CREATE INDEX idx_price_import_effective ON price_import (effective_at, id) WHERE state = 'approved';
"""
DOWN = f"""
DROP TABLE price_import;
DELETE FROM provider_rollup WHERE grain = 'day';
ALTER TABLE provider_rollup {", ".join(f"DROP {name}" for name in (*SUMS, "cost"))};
ALTER TABLE provider_rollup DROP CONSTRAINT provider_rollup_grain_known;
ALTER TABLE provider_rollup ADD CONSTRAINT provider_rollup_grain_known CHECK (grain = ANY (ARRAY[{GRAINS}]));
"""


def upgrade() -> None:
    """Apply the migration."""
    run_script(UP)


def downgrade() -> None:
    """Revert it."""
    run_script(DOWN)
