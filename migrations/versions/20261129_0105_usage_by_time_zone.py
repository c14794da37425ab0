"""Rollups of the days and weeks of other time zones, whose grain names the zone, and the zones in which accounts are viewed.

Revision: 0105
Revises: 0104
"""

from migrations.replacing import run_script

revision = "0105"
down_revision = "0104"
branch_labels = None
depends_on = None

UP = """
CREATE TABLE usage_zone (
    account_id text NOT NULL,
    time_zone text NOT NULL,
    viewed_at timestamptz NOT NULL,
    counted_until timestamptz,
    CONSTRAINT usage_zone_pk PRIMARY KEY (account_id, time_zone),
    CONSTRAINT usage_zone_account_id_fk FOREIGN KEY (account_id) REFERENCES credit_account (id) ON DELETE CASCADE
);
ALTER TABLE usage_rollup DROP CONSTRAINT usage_rollup_grain_known;
ALTER TABLE usage_rollup ADD CONSTRAINT usage_rollup_grain_known
    CHECK (split_part(grain, ' ', 1) = ANY (ARRAY['hour', 'day', 'week'])) NOT VALID;
"""
DOWN = """
DROP TABLE usage_zone;
DELETE FROM usage_rollup WHERE grain NOT IN ('hour', 'day', 'week');
ALTER TABLE usage_rollup DROP CONSTRAINT usage_rollup_grain_known;
ALTER TABLE usage_rollup ADD CONSTRAINT usage_rollup_grain_known CHECK (grain IN ('hour', 'day', 'week'));
"""


def upgrade() -> None:
    """Apply the migration. The next one validates the constraint."""
    run_script(UP)


def downgrade() -> None:
    """Revert it. Without the zones their rollups are never read, and counted again after an upgrade."""
    run_script(DOWN)
