"""What of a workspace was analysed last, and the conversations that decisions come from.

Revision: 0139
Revises: 0140
"""

from migrations.replacing import run_script

revision = "0139"
down_revision = "0140"
branch_labels = None
depends_on = None

UP = """
CREATE TABLE workspace_analysis (
    workspace_id text NOT NULL CONSTRAINT workspace_analysis_pk PRIMARY KEY,
    project_id text NOT NULL,
    queued_at timestamptz,
    manifest_hash text,
    rules integer NOT NULL DEFAULT 0,
    analysed_at timestamptz,
    files integer NOT NULL DEFAULT 0,
    milliseconds integer NOT NULL DEFAULT 0,
    problems jsonb NOT NULL DEFAULT '[]',
    CONSTRAINT workspace_analysis_workspace_fk FOREIGN KEY (project_id, workspace_id)
        REFERENCES workspace (project_id, id) ON DELETE CASCADE,
    CONSTRAINT workspace_analysis_counts_not_negative CHECK (files >= 0 AND milliseconds >= 0),
    CONSTRAINT workspace_analysis_analysed_or_not CHECK ((manifest_hash IS NULL) = (analysed_at IS NULL))
);
CREATE INDEX idx_workspace_analysis_project ON workspace_analysis (project_id);
ALTER TABLE project_decision ADD CONSTRAINT project_decision_conversation_id_fk
    FOREIGN KEY (conversation_id) REFERENCES conversation (id) ON DELETE SET NULL;
"""

DOWN = """
ALTER TABLE project_decision DROP CONSTRAINT project_decision_conversation_id_fk;
DROP TABLE workspace_analysis;
"""


def upgrade() -> None:
    """Apply the migration."""
    run_script(UP)


def downgrade() -> None:
    """Revert it."""
    run_script(DOWN)
