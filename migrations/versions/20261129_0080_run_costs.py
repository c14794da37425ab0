"""What a run of each agent costs, and the numbers of agents beside the store's filter by cost.

Revision: 0080
Revises: 0079
"""

from migrations.replacing import replace_function, restore_function, run_script

revision = "0080"
down_revision = "0079"
branch_labels = None
depends_on = None

FUNCTIONS = ("store/store_cost_band", "store/store_count_facets")
UP = """
CREATE TABLE agent_run_cost (
    publisher_id text NOT NULL,
    agent_id text NOT NULL,
    version text NOT NULL,
    runs bigint NOT NULL,
    median bigint NOT NULL,
    p95 bigint NOT NULL,
    CONSTRAINT agent_run_cost_pk PRIMARY KEY (publisher_id, agent_id, version)
);
"""


def upgrade() -> None:
    run_script(UP)
    for name in FUNCTIONS:
        replace_function(name, revision)


def downgrade() -> None:
    for name in reversed(FUNCTIONS):
        restore_function(name, revision)
    run_script("DELETE FROM store_facet WHERE kind = 'cost'; DROP TABLE agent_run_cost")
