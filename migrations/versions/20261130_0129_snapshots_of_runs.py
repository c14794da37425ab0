"""Snapshots that name the agent's run that made them, and what of its credits each counts; and the check of the conditions
that 0126 added to provider keys.

Revision: 0129
Revises: 0126
"""

from migrations.replacing import run_script

revision = "0129"
down_revision = "0126"
branch_labels = None
depends_on = None

UP = """
ALTER TABLE snapshot
    ADD COLUMN run_id text CONSTRAINT snapshot_run_id_fk REFERENCES agent_run (id) ON DELETE SET NULL,
    ADD COLUMN credits bigint NOT NULL DEFAULT 0,
    ADD CONSTRAINT snapshot_credits_not_negative CHECK (credits >= 0);
CREATE INDEX idx_snapshot_run ON snapshot (run_id, created_at) WHERE run_id IS NOT NULL;

CREATE TABLE snapshot_run_cost (
    project_id text NOT NULL,
    snapshot_id text NOT NULL,
    run_id text NOT NULL CONSTRAINT snapshot_run_cost_run_id_fk REFERENCES agent_run (id) ON DELETE CASCADE,
    credits bigint NOT NULL,
    CONSTRAINT snapshot_run_cost_pk PRIMARY KEY (project_id, snapshot_id, run_id),
    CONSTRAINT snapshot_run_cost_snapshot_fk FOREIGN KEY (project_id, snapshot_id)
        REFERENCES snapshot (project_id, id) ON DELETE CASCADE,
    CONSTRAINT snapshot_run_cost_credits_positive CHECK (credits > 0)
);
CREATE INDEX idx_snapshot_run_cost_run ON snapshot_run_cost (run_id);

ALTER TABLE org_provider_key VALIDATE CONSTRAINT org_provider_key_client_of_person;
ALTER TABLE org_provider_key VALIDATE CONSTRAINT org_provider_key_provider_known;
"""
DOWN = """
DROP TABLE snapshot_run_cost;
ALTER TABLE snapshot DROP COLUMN run_id, DROP COLUMN credits;
ALTER TABLE org_provider_key
    DROP CONSTRAINT org_provider_key_client_of_person,
    ADD CONSTRAINT org_provider_key_client_of_person CHECK (NOT from_client OR user_id IS NOT NULL) NOT VALID,
    DROP CONSTRAINT org_provider_key_provider_known,
    ADD CONSTRAINT org_provider_key_provider_known CHECK (provider = ANY (ARRAY[
        'anthropic', 'aws', 'azure', 'gemini', 'groq', 'mistral', 'openai', 'openrouter'])) NOT VALID;
"""


def upgrade() -> None:
    """Apply the migration."""
    run_script(UP)


def downgrade() -> None:
    """Revert it."""
    run_script(DOWN)
