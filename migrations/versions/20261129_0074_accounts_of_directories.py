"""The account that a user of a directory is, whatever their address becomes.

Revision: 0074
Revises: 0065
"""

from migrations.replacing import run_script

revision = "0074"
down_revision = "0065"
branch_labels = None
depends_on = None

UP = """
ALTER TABLE scim_user ADD COLUMN user_id text;
UPDATE scim_user s SET user_id = u.id FROM "user" u WHERE u.email = s.email AND u."emailVerified" IS NOT NULL;
ALTER TABLE scim_user ADD CONSTRAINT scim_user_user_id_fk FOREIGN KEY (user_id) REFERENCES "user" (id) ON DELETE SET NULL;
CREATE INDEX idx_scim_user_account ON scim_user (user_id);
"""

DOWN = """
DROP INDEX idx_scim_user_account;
ALTER TABLE scim_user DROP COLUMN user_id;
"""


def upgrade() -> None:
    """Apply the migration."""
    run_script(UP)


def downgrade() -> None:
    """Revert it."""
    run_script(DOWN)
