"""Operators find people, organisations and keys by the beginning of an address or a name and the ending of a key, and list
the models that had no price."""

from alembic import op

revision = "0079"
down_revision = "0078"
branch_labels = None
depends_on = None

INDEXES = {
    "idx_user_email_beginning": '"user" (email text_pattern_ops)',
    "idx_user_name_beginning": '"user" (lower(name) text_pattern_ops)',
    "idx_org_slug_beginning": "org (slug text_pattern_ops)",
    "idx_org_name_beginning": "org (lower(name) text_pattern_ops)",
    "idx_gateway_call_unpriced": "gateway_call (started_at)"
    " WHERE state = 'failed' AND error = 'model_price_missing'",
    "idx_session_hint_ending": "session (reverse(token_hint) text_pattern_ops)",
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
