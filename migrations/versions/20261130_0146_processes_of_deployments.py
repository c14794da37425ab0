"""Deployments that run as processes of this server, and files that are built before they are deployed.

Revision: 0146
Revises: 0156
"""

from migrations.replacing import run_script

revision = "0146"
down_revision = "0156"
branch_labels = None
depends_on = None

_STATES = "'queued', 'building', 'releasing', 'checking', 'live', 'failed', 'rolled_back', 'stopped'"

UP = f"""
ALTER TABLE deployment
    ADD COLUMN built_manifest text,
    DROP CONSTRAINT deployment_state_known,
    ADD CONSTRAINT deployment_state_known CHECK (state = ANY (ARRAY['restarting', {_STATES}])) NOT VALID;

ALTER TABLE deployment_setting
    ADD COLUMN install_command text,
    ADD COLUMN health_path text,
    ADD COLUMN build_hosts text[] NOT NULL DEFAULT '{{}}';

CREATE TABLE deployed_process (
    deployment_id text NOT NULL CONSTRAINT deployed_process_pk PRIMARY KEY
        CONSTRAINT deployed_process_deployment_id_fk REFERENCES deployment (id) ON DELETE CASCADE,
    socket text,
    failures integer NOT NULL DEFAULT 0,
    reason text,
    replaces text NOT NULL,
    started_at timestamptz,
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT deployed_process_failures_not_negative CHECK (failures >= 0),
    CONSTRAINT deployed_process_replaces_known CHECK (replaces = ANY (ARRAY['stopped', 'rolled_back']))
);
"""
DOWN = """
DROP TABLE deployed_process;
DELETE FROM deployment WHERE adapter = 'process' OR state = 'restarting';
UPDATE deployment_setting SET adapter = 'static' WHERE adapter = 'process';
ALTER TABLE deployment_setting
    DROP COLUMN install_command, DROP COLUMN health_path, DROP COLUMN build_hosts;
ALTER TABLE deployment
    DROP COLUMN built_manifest,
    DROP CONSTRAINT deployment_state_known,
    ADD CONSTRAINT deployment_state_known CHECK (state = ANY (ARRAY['queued', 'building', 'releasing',
        'checking', 'live', 'failed', 'rolled_back', 'stopped']));
"""


def upgrade() -> None:
    """Apply the migration."""
    run_script(UP)


def downgrade() -> None:
    """Revert it."""
    run_script(DOWN)
