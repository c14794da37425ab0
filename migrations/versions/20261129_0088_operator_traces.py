"""Operators find the calls of a run and of a client's session, whoever made them, and evaluation results.

Revision: 0088
Revises: 0087
"""

from alembic import op

revision = "0088"
down_revision = "0087"
branch_labels = None
depends_on = None

INDEXES = {
    "idx_message_client_request": "message (client_request_id, finished_at) WHERE client_request_id IS NOT NULL",
    "idx_message_client": "message (client_id, finished_at) WHERE client_id IS NOT NULL",
    "idx_git_eval_results_public": "git_eval_results (id) WHERE is_public",
    "idx_git_eval_results_agent": "git_eval_results (agent_model, id)",
}


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for name, columns in INDEXES.items():
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.execute(f"CREATE INDEX CONCURRENTLY {name} ON {columns}")


def downgrade() -> None:
    with op.get_context().autocommit_block():
        for name in INDEXES:
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
