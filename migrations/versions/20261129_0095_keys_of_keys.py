"""Keys that a key created are revoked with it.

Revision: 0095
Revises: 0094
"""

from migrations.replacing import replace_function, restore_function

revision = "0095"
down_revision = "0094"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the migration."""
    replace_function("accounts/api_key_follow_session", revision)


def downgrade() -> None:
    """Revert it."""
    restore_function("accounts/api_key_follow_session", revision)
