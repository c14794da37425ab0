"""Indexes of the keys of an organisation and of a team: the pages of organisations read all sessions without them.

Revision ID: 0065
Revises: 0064
"""

from alembic import op

from migrations.indexing import build_indexes

revision = "0065"
down_revision = "0064"
branch_labels = None
depends_on = None

INDEXES = {
    "idx_session_org": 'session (org_id, created_at, "sessionToken") WHERE org_id IS NOT NULL',
    "idx_session_team": "session (team_id) WHERE team_id IS NOT NULL",
}


def upgrade() -> None:
    build_indexes(INDEXES)


def downgrade() -> None:
    for name in INDEXES:
        op.execute(f"DROP INDEX IF EXISTS {name}")
