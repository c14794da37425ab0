"""Operators find people, organisations and keys by the beginning of an address or a name and the ending of a key, and list
the models that had no price."""

from migrations.indexing import build_indexes, drop_indexes

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
    build_indexes(INDEXES)


def downgrade() -> None:
    drop_indexes(INDEXES)
