"""Indexes for the list of calls: by time, key, model, cost, agent, team and repository, and for failed ones."""

from alembic import op

from migrations.indexing import build_indexes, drop_indexes

revision = "0056"
down_revision = "0055"
branch_labels = None
depends_on = None

INDEXES = {
    "idx_gateway_call_finished": "gateway_call (account_id, finished_at)",
    "idx_gateway_call_key": "gateway_call (account_id, key_id, finished_at)",
    "idx_gateway_call_model": "gateway_call (account_id, coalesce(model, requested_model), finished_at)",
    "idx_gateway_call_cost": "gateway_call (account_id, micro_credits) WHERE micro_credits >= 5000000",
    "idx_gateway_call_faulty": """
        gateway_call (account_id, finished_at) WHERE state = 'failed' OR error IS NOT NULL OR http_status <> 200
    """,
    "idx_message_agent": """
        message (coalesce(org_id, user_id), split_part(agent_id, '@', 1), finished_at) WHERE agent_id IS NOT NULL
    """,
    "idx_message_team": "message (team_id, finished_at) WHERE team_id IS NOT NULL",
    "idx_message_repository": "message (coalesce(org_id, user_id), repo_url, finished_at) WHERE repo_url IS NOT NULL",
    "idx_message_byok": "message (id) WHERE byok",
}
MEMBER = "gateway_call (user_id{}) WHERE user_id <> account_id"


def upgrade() -> None:
    build_indexes(INDEXES)
    with op.get_context().autocommit_block():
        _replace_member_index(", account_id, finished_at")


def downgrade() -> None:
    with op.get_context().autocommit_block():
        _replace_member_index("")
    drop_indexes(reversed(INDEXES))


def _replace_member_index(more: str) -> None:
    op.execute("DROP INDEX CONCURRENTLY IF EXISTS idx_gateway_call_member_new")
    op.execute(f"CREATE INDEX CONCURRENTLY idx_gateway_call_member_new ON {MEMBER.format(more)}")
    op.execute("DROP INDEX CONCURRENTLY IF EXISTS idx_gateway_call_member")
    op.execute("ALTER INDEX idx_gateway_call_member_new RENAME TO idx_gateway_call_member")
