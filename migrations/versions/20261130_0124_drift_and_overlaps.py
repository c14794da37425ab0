"""Reports of drift, and the index of what each workspace changed, which finds overlaps.

Revision: 0124
Revises: 0123
"""

from migrations.replacing import run_script

revision = "0124"
down_revision = "0123"
branch_labels = None
depends_on = None

UP = """
CREATE TABLE drift_report (
    id text NOT NULL CONSTRAINT drift_report_pk PRIMARY KEY,
    project_id text NOT NULL,
    workspace_id text NOT NULL,
    source_workspace_id text,
    workspace_snapshot_id text,
    source_snapshot_id text,
    workspace_manifest_hash text,
    source_manifest_hash text,
    source_only jsonb NOT NULL,
    workspace_only jsonb NOT NULL,
    both_same jsonb NOT NULL,
    both_different jsonb NOT NULL,
    truncated jsonb NOT NULL,
    counts_by_ext jsonb,
    files_added integer NOT NULL,
    files_modified integer NOT NULL,
    files_deleted integer NOT NULL,
    workspace_only_count integer NOT NULL,
    bytes_changed bigint NOT NULL,
    summary text,
    reported_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT drift_report_workspace_fk FOREIGN KEY (project_id, workspace_id)
        REFERENCES workspace (project_id, id) ON DELETE CASCADE,
    CONSTRAINT drift_report_source_workspace_fk FOREIGN KEY (project_id, source_workspace_id)
        REFERENCES workspace (project_id, id) ON DELETE NO ACTION,
    CONSTRAINT drift_report_workspace_snapshot_fk FOREIGN KEY (project_id, workspace_snapshot_id)
        REFERENCES snapshot (project_id, id) ON DELETE NO ACTION,
    CONSTRAINT drift_report_source_snapshot_fk FOREIGN KEY (project_id, source_snapshot_id)
        REFERENCES snapshot (project_id, id) ON DELETE NO ACTION,
    CONSTRAINT drift_report_counts_not_negative CHECK (files_added >= 0 AND files_modified >= 0 AND files_deleted >= 0
        AND bytes_changed >= 0 AND workspace_only_count >= 0)
);
CREATE INDEX idx_drift_report_workspace ON drift_report (workspace_id, reported_at, id);
CREATE INDEX idx_drift_report_project ON drift_report (project_id);

CREATE TABLE change_index (
    workspace_id text NOT NULL CONSTRAINT change_index_pk PRIMARY KEY,
    project_id text NOT NULL,
    base_snapshot_id text,
    head_snapshot_id text,
    main_snapshot_id text,
    state text NOT NULL,
    changed integer NOT NULL,
    CONSTRAINT change_index_workspace_fk FOREIGN KEY (project_id, workspace_id)
        REFERENCES workspace (project_id, id) ON DELETE CASCADE,
    CONSTRAINT change_index_base_snapshot_fk FOREIGN KEY (project_id, base_snapshot_id)
        REFERENCES snapshot (project_id, id) ON DELETE NO ACTION,
    CONSTRAINT change_index_head_snapshot_fk FOREIGN KEY (project_id, head_snapshot_id)
        REFERENCES snapshot (project_id, id) ON DELETE NO ACTION,
    CONSTRAINT change_index_main_snapshot_fk FOREIGN KEY (project_id, main_snapshot_id)
        REFERENCES snapshot (project_id, id) ON DELETE NO ACTION,
    CONSTRAINT change_index_state_known CHECK (state = ANY (ARRAY['complete', 'cut', 'unreadable'])),
    CONSTRAINT change_index_changed_not_negative CHECK (changed >= 0)
);
CREATE INDEX idx_change_index_project ON change_index (project_id);

CREATE TABLE workspace_change (
    workspace_id text NOT NULL,
    path_key text NOT NULL,
    project_id text NOT NULL,
    path text NOT NULL,
    base text,
    own text,
    main text,
    told boolean NOT NULL DEFAULT false,
    CONSTRAINT workspace_change_pk PRIMARY KEY (workspace_id, path_key),
    CONSTRAINT workspace_change_workspace_fk FOREIGN KEY (project_id, workspace_id)
        REFERENCES workspace (project_id, id) ON DELETE CASCADE
);
CREATE INDEX idx_workspace_change_path ON workspace_change (project_id, path_key);
"""

DOWN = """
DROP TABLE workspace_change, change_index, drift_report;
"""


def upgrade() -> None:
    """Apply the migration."""
    run_script(UP)


def downgrade() -> None:
    """Revert it."""
    run_script(DOWN)
