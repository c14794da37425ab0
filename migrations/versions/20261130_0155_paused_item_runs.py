"""Runs of action items that pause, and credits that are given back.

Revision: 0155
Revises: 0154
"""

from migrations.replacing import run_script

revision = "0155"
down_revision = "0154"
branch_labels = None
depends_on = None

UP = """
ALTER TABLE action_item_run
    ADD COLUMN ours boolean NOT NULL DEFAULT false,
    ADD COLUMN returned bigint,
    DROP CONSTRAINT action_item_run_status_known,
    DROP CONSTRAINT action_item_run_failed_says_why,
    DROP CONSTRAINT action_item_run_completed_at_set,
    ADD CONSTRAINT action_item_run_status_known
        CHECK (status = ANY (ARRAY['queued', 'running', 'paused', 'ready', 'failed', 'applied'])),
    ADD CONSTRAINT action_item_run_failed_says_why
        CHECK ((status = ANY (ARRAY['paused', 'failed'])) = (error IS NOT NULL)),
    ADD CONSTRAINT action_item_run_completed_at_set
        CHECK ((status = ANY (ARRAY['queued', 'running', 'paused'])) = (completed_at IS NULL)),
    ADD CONSTRAINT action_item_run_ours_failed CHECK (NOT ours OR status = 'failed'),
    ADD CONSTRAINT action_item_run_returned_of_ours CHECK (returned IS NULL OR (ours AND returned >= 0));
DROP INDEX idx_action_item_run_one_active;
CREATE UNIQUE INDEX idx_action_item_run_one_active ON action_item_run (action_item_id)
    WHERE status = ANY (ARRAY['queued', 'running', 'paused']);
CREATE INDEX idx_action_item_run_owed ON action_item_run (completed_at) WHERE ours AND returned IS NULL;
"""
DOWN = """
DROP INDEX idx_action_item_run_owed;
DROP INDEX idx_action_item_run_one_active;
UPDATE action_item_run SET status = 'failed', completed_at = now() WHERE status = 'paused';
CREATE UNIQUE INDEX idx_action_item_run_one_active ON action_item_run (action_item_id)
    WHERE status = ANY (ARRAY['queued', 'running']);
ALTER TABLE action_item_run
    DROP CONSTRAINT action_item_run_ours_failed,
    DROP CONSTRAINT action_item_run_returned_of_ours,
    DROP CONSTRAINT action_item_run_status_known,
    DROP CONSTRAINT action_item_run_failed_says_why,
    DROP CONSTRAINT action_item_run_completed_at_set,
    ADD CONSTRAINT action_item_run_status_known
        CHECK (status = ANY (ARRAY['queued', 'running', 'ready', 'failed', 'applied'])),
    ADD CONSTRAINT action_item_run_failed_says_why CHECK ((status = 'failed') = (error IS NOT NULL)),
    ADD CONSTRAINT action_item_run_completed_at_set
        CHECK ((status = ANY (ARRAY['queued', 'running'])) = (completed_at IS NULL)),
    DROP COLUMN ours,
    DROP COLUMN returned;
"""


def upgrade() -> None:
    """Apply the migration."""
    run_script(UP)


def downgrade() -> None:
    """Revert it."""
    run_script(DOWN)
