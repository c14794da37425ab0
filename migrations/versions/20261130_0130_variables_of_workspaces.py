"""Values that environment variables of projects have in one workspace.

Revision: 0130
Revises: 0127
"""

from migrations.replacing import run_script

revision = "0130"
down_revision = "0127"
branch_labels = None
depends_on = None

UP = """
ALTER TABLE project_env_var
    ADD COLUMN workspace_id text,
    ADD CONSTRAINT project_env_var_workspace_fk FOREIGN KEY (project_id, workspace_id)
        REFERENCES workspace (project_id, id) ON DELETE CASCADE;
DROP INDEX idx_project_env_var_key;
CREATE UNIQUE INDEX idx_project_env_var_key ON project_env_var (project_id, key) WHERE workspace_id IS NULL;
CREATE UNIQUE INDEX idx_project_env_var_workspace_key ON project_env_var (project_id, workspace_id, key)
    WHERE workspace_id IS NOT NULL;
"""

DOWN = """
DELETE FROM project_env_var WHERE workspace_id IS NOT NULL;
DROP INDEX idx_project_env_var_workspace_key, idx_project_env_var_key;
CREATE UNIQUE INDEX idx_project_env_var_key ON project_env_var (project_id, key);
ALTER TABLE project_env_var DROP COLUMN workspace_id;
"""


def upgrade() -> None:
    """Apply the migration."""
    run_script(UP)


def downgrade() -> None:
    """Revert it."""
    run_script(DOWN)
