"""Previews of syncs of workspaces.

Revision: 0125
Revises: 0124
"""

from migrations.replacing import run_script

revision = "0125"
down_revision = "0124"
branch_labels = None
depends_on = None

UP = """
CREATE TABLE sync_preview (
    id text NOT NULL CONSTRAINT sync_preview_pk PRIMARY KEY,
    project_id text NOT NULL CONSTRAINT sync_preview_project_id_fk REFERENCES project (id) ON DELETE CASCADE,
    workspace_id text NOT NULL,
    main_workspace_id text NOT NULL,
    user_id text NOT NULL CONSTRAINT sync_preview_user_id_fk REFERENCES "user" (id) ON DELETE CASCADE,
    workspace_version integer NOT NULL,
    workspace_snapshot_id text NOT NULL,
    workspace_manifest_hash text NOT NULL,
    main_version integer NOT NULL,
    main_snapshot_id text NOT NULL,
    main_manifest_hash text NOT NULL,
    base_snapshot_id text,
    files_unchanged integer NOT NULL,
    plan jsonb NOT NULL,
    made_files text[] NOT NULL,
    decisions jsonb,
    state text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    CONSTRAINT sync_preview_workspace_fk FOREIGN KEY (project_id, workspace_id)
        REFERENCES workspace (project_id, id) ON DELETE CASCADE,
    CONSTRAINT sync_preview_main_workspace_fk FOREIGN KEY (project_id, main_workspace_id)
        REFERENCES workspace (project_id, id) ON DELETE CASCADE,
    CONSTRAINT sync_preview_workspace_snapshot_fk FOREIGN KEY (project_id, workspace_snapshot_id)
        REFERENCES snapshot (project_id, id) ON DELETE NO ACTION,
    CONSTRAINT sync_preview_main_snapshot_fk FOREIGN KEY (project_id, main_snapshot_id)
        REFERENCES snapshot (project_id, id) ON DELETE NO ACTION,
    CONSTRAINT sync_preview_base_snapshot_fk FOREIGN KEY (project_id, base_snapshot_id)
        REFERENCES snapshot (project_id, id) ON DELETE NO ACTION,
    CONSTRAINT sync_preview_state_known CHECK (state = ANY (ARRAY['open', 'executed'])),
    CONSTRAINT sync_preview_executed_decided CHECK ((state = 'executed') = (decisions IS NOT NULL)),
    CONSTRAINT sync_preview_expires_later CHECK (expires_at > created_at),
    CONSTRAINT sync_preview_files_not_negative CHECK (files_unchanged >= 0),
    CONSTRAINT sync_preview_two_workspaces CHECK (workspace_id <> main_workspace_id)
);
CREATE INDEX idx_sync_preview_workspace ON sync_preview (workspace_id, created_at);
CREATE INDEX idx_sync_preview_project ON sync_preview (project_id);
CREATE INDEX idx_sync_preview_user ON sync_preview (user_id);
CREATE INDEX idx_sync_preview_expires ON sync_preview (expires_at);
"""

DOWN = "DROP TABLE sync_preview;"


def upgrade() -> None:
    """Apply the migration."""
    run_script(UP)


def downgrade() -> None:
    """Revert it."""
    run_script(DOWN)
