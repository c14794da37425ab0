"""Usage of organisations by member, team, key, repository, agent, version and run, counted behind the calls; weekly reports.

Revision: 0052
Revises: 0051
"""

from migrations.replacing import replace_function, restore_function, run_script

revision = "0052"
down_revision = "0051"
branch_labels = None
depends_on = None

UP = """
CREATE TABLE org_usage (
    org_id text NOT NULL,
    user_id text NOT NULL,
    dimension text NOT NULL,
    grain text NOT NULL,
    bucket timestamptz NOT NULL,
    key text NOT NULL,
    calls bigint NOT NULL,
    input_tokens bigint NOT NULL,
    cache_write_tokens bigint NOT NULL,
    cache_read_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    reasoning_tokens bigint NOT NULL,
    credits bigint NOT NULL,
    cost numeric NOT NULL,
    latency_ms bigint NOT NULL,
    histogram int[] NOT NULL,
    CONSTRAINT org_usage_pk PRIMARY KEY (org_id, user_id, dimension, grain, bucket, key),
    CONSTRAINT org_usage_org_id_fk FOREIGN KEY (org_id) REFERENCES org (id) ON DELETE CASCADE
);
CREATE INDEX idx_org_usage_runs ON org_usage (org_id, user_id, bucket, credits) WHERE dimension = 'run';
CREATE TABLE org_usage_state (
    org_id text NOT NULL,
    time_zone text NOT NULL,
    counted_until timestamptz NOT NULL,
    CONSTRAINT org_usage_state_pk PRIMARY KEY (org_id),
    CONSTRAINT org_usage_state_org_id_fk FOREIGN KEY (org_id) REFERENCES org (id) ON DELETE CASCADE
);
CREATE TABLE org_weekly_report (
    org_id text NOT NULL,
    week date NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT org_weekly_report_pk PRIMARY KEY (org_id, week),
    CONSTRAINT org_weekly_report_org_id_fk FOREIGN KEY (org_id) REFERENCES org (id) ON DELETE CASCADE
);
"""
DOWN = """
DROP TABLE org_weekly_report, org_usage, org_usage_state;
"""


def upgrade() -> None:
    run_script(UP)
    replace_function("usage/org_usage_cells", revision)


def downgrade() -> None:
    restore_function("usage/org_usage_cells", revision)
    run_script(DOWN)
