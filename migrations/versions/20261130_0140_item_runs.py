"""Runs that mend action items.

Revision: 0140
Revises: 0134
"""

from migrations.replacing import run_script

revision = "0140"
down_revision = "0134"
branch_labels = None
depends_on = None

UP = """
CREATE TABLE action_item_run (
    id text NOT NULL DEFAULT gen_random_uuid()::text CONSTRAINT action_item_run_pk PRIMARY KEY,
    action_item_id text NOT NULL
        CONSTRAINT action_item_run_action_item_id_fk REFERENCES action_item (id) ON DELETE CASCADE,
    project_id text NOT NULL CONSTRAINT action_item_run_project_id_fk REFERENCES project (id) ON DELETE CASCADE,
    workspace_id text NOT NULL,
    user_id text CONSTRAINT action_item_run_user_id_fk REFERENCES "user" (id) ON DELETE SET NULL,
    status text NOT NULL DEFAULT 'queued',
    level text NOT NULL,
    model text,
    allow_test_changes boolean NOT NULL DEFAULT false,
    max_attempts integer NOT NULL DEFAULT 3,
    attempt_count integer NOT NULL DEFAULT 0,
    attempts jsonb NOT NULL DEFAULT '[]',
    base_snapshot_id text,
    base_manifest_hash text NOT NULL,
    result_manifest_hash text,
    verified boolean,
    doubts text,
    tests_touched text[] NOT NULL DEFAULT '{}',
    checks jsonb,
    summary text,
    report text,
    error_code text,
    error text,
    conversation_id text,
    turn_id text CONSTRAINT action_item_run_turn_id_fk REFERENCES turn (id) ON DELETE SET NULL,
    budget bigint NOT NULL,
    credits bigint NOT NULL DEFAULT 0,
    operation_id text
        CONSTRAINT action_item_run_operation_id_fk REFERENCES workspace_operation (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    completed_at timestamptz,
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT action_item_run_workspace_fk FOREIGN KEY (project_id, workspace_id)
        REFERENCES workspace (project_id, id) ON DELETE CASCADE,
    CONSTRAINT action_item_run_status_known
        CHECK (status = ANY (ARRAY['queued', 'running', 'ready', 'failed', 'applied'])),
    CONSTRAINT action_item_run_level_known CHECK (level = ANY (ARRAY['virtual', 'process', 'machine'])),
    CONSTRAINT action_item_run_attempts_range
        CHECK (max_attempts >= 1 AND max_attempts <= 3 AND attempt_count >= 0 AND attempt_count <= max_attempts),
    CONSTRAINT action_item_run_credits_range CHECK (budget > 0 AND credits >= 0),
    CONSTRAINT action_item_run_attempts_list CHECK (jsonb_typeof(attempts) = 'array'),
    CONSTRAINT action_item_run_verified_when_ready
        CHECK ((status = ANY (ARRAY['ready', 'applied'])) = (verified IS NOT NULL)),
    CONSTRAINT action_item_run_ready_has_result CHECK (verified IS NULL OR result_manifest_hash IS NOT NULL),
    CONSTRAINT action_item_run_failed_says_why CHECK ((status = 'failed') = (error IS NOT NULL)),
    CONSTRAINT action_item_run_completed_at_set
        CHECK ((status = ANY (ARRAY['queued', 'running'])) = (completed_at IS NULL))
);
CREATE UNIQUE INDEX idx_action_item_run_one_active ON action_item_run (action_item_id)
    WHERE status = ANY (ARRAY['queued', 'running']);
CREATE INDEX idx_action_item_run_item ON action_item_run (action_item_id, created_at, id);
CREATE INDEX idx_action_item_run_project ON action_item_run (project_id, status, created_at);
CREATE INDEX idx_action_item_run_workspace ON action_item_run (workspace_id, created_at);
CREATE INDEX idx_action_item_run_user ON action_item_run (user_id);
CREATE INDEX idx_action_item_run_turn ON action_item_run (turn_id);
CREATE INDEX idx_action_item_run_operation ON action_item_run (operation_id);
"""

DOWN = """
DROP TABLE action_item_run;
"""


def upgrade() -> None:
    """Apply the migration."""
    run_script(UP)


def downgrade() -> None:
    """Revert it."""
    run_script(DOWN)
