"""Licences of agents, changelogs of versions, and how long runs take.

Revision: 0082
Revises: 0081
"""

from migrations.replacing import replace_function, restore_function, run_script

revision = "0082"
down_revision = "0081"
branch_labels = None
depends_on = None

UP = """
ALTER TABLE agent ADD COLUMN license text;
ALTER TABLE agent_version ADD COLUMN changelog text;
ALTER TABLE agent_run_cost ADD COLUMN median_ms bigint, ADD COLUMN p95_ms bigint;
CREATE INDEX idx_agent_license ON agent (license) WHERE license IS NOT NULL;
"""
DOWN = """
DELETE FROM store_facet WHERE kind = 'license';
DROP INDEX idx_agent_license;
ALTER TABLE agent_run_cost DROP COLUMN median_ms, DROP COLUMN p95_ms;
ALTER TABLE agent_version DROP COLUMN changelog;
ALTER TABLE agent DROP COLUMN license;
"""


def upgrade() -> None:
    run_script(UP)
    replace_function("store/store_count_facets", revision)


def downgrade() -> None:
    restore_function("store/store_count_facets", revision)
    run_script(DOWN)
