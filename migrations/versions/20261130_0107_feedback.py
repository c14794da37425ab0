"""Feedback of users.

Revision: 0107
Revises: 0106
"""

from migrations.replacing import run_script

revision = "0107"
down_revision = "0106"
branch_labels = None
depends_on = None

UP = """
CREATE TABLE feedback (
    id text NOT NULL DEFAULT gen_random_uuid()::text CONSTRAINT feedback_pk PRIMARY KEY,
    user_id text NOT NULL CONSTRAINT feedback_user_id_fk REFERENCES "user" (id) ON DELETE CASCADE,
    category text NOT NULL,
    message_id text,
    text text NOT NULL,
    source text,
    client_id text,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT feedback_category_known CHECK (category = ANY (ARRAY['good_result'::text, 'bad_result'::text, 'app_bug'::text, 'other'::text]))
);
CREATE INDEX idx_feedback_created ON feedback (created_at, id);
CREATE INDEX idx_feedback_category ON feedback (category, created_at, id);
CREATE INDEX idx_feedback_user ON feedback (user_id, created_at);
CREATE UNIQUE INDEX idx_feedback_client_id ON feedback (user_id, client_id) WHERE client_id IS NOT NULL;
"""


def upgrade() -> None:
    """Apply the migration."""
    run_script(UP)


def downgrade() -> None:
    """Revert it."""
    run_script("DROP TABLE feedback")
