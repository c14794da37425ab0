"""Keys that a key created are revoked with it; lists of keys are newest first.

Revision: 0095
Revises: 0094
"""

from migrations.replacing import replace_function, restore_function, run_script

revision = "0095"
down_revision = "0094"
branch_labels = None
depends_on = None


UP = """
DROP INDEX idx_api_key_user, idx_api_key_org;
CREATE INDEX idx_api_key_user ON api_key (user_id, created_at, id);
CREATE INDEX idx_api_key_org ON api_key (org_id, created_at, id) WHERE org_id IS NOT NULL;
"""
DOWN = """
DROP INDEX idx_api_key_user, idx_api_key_org;
CREATE INDEX idx_api_key_user ON api_key (user_id, revoked_at) WHERE revoked_at IS NOT NULL;
CREATE INDEX idx_api_key_org ON api_key (org_id, revoked_at) WHERE revoked_at IS NOT NULL;
"""


def upgrade() -> None:
    """Apply the migration."""
    run_script(UP)
    replace_function("accounts/api_key_follow_session", revision)


def downgrade() -> None:
    """Revert it."""
    restore_function("accounts/api_key_follow_session", revision)
    run_script(DOWN)
