"""API keys by expiry, to announce it.

Revision: 0108
Revises: 0107
"""

from migrations.indexing import build_indexes, drop_indexes

revision = "0108"
down_revision = "0107"
branch_labels = None
depends_on = None

INDEXES = {
    "idx_session_key_expires": """session (expires, "sessionToken") WHERE (type = 'pat'::session_type)""",
}


def upgrade() -> None:
    """Apply the migration."""
    build_indexes(INDEXES)


def downgrade() -> None:
    """Revert it."""
    drop_indexes(INDEXES)
