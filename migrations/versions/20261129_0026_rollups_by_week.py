"""Let usage rollups have the grain `week`.

Revision: 0026
Revises: 0025
"""

from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _allow("'hour'::text, 'day'::text, 'week'::text", "NOT VALID")


def downgrade() -> None:
    _allow("'hour'::text, 'day'::text")


def _allow(grains: str, how: str = "") -> None:
    op.execute("ALTER TABLE usage_rollup DROP CONSTRAINT usage_rollup_grain_known")
    op.execute(
        "ALTER TABLE usage_rollup ADD CONSTRAINT usage_rollup_grain_known"
        f" CHECK (grain = ANY (ARRAY[{grains}])) {how}"
    )
