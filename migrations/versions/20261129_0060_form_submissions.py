"""Submissions of forms, so that each acts once.

Revision: 0060
Revises: 0059
"""

from migrations.replacing import run_script

revision = "0060"
down_revision = "0059"
branch_labels = None
depends_on = None

UP = """
CREATE TABLE form_submission (
    id text NOT NULL,
    endpoint text NOT NULL,
    started_at timestamptz NOT NULL,
    finished_at timestamptz,
    expires_at timestamptz NOT NULL,
    response text,
    CONSTRAINT form_submission_pk PRIMARY KEY (id)
);
CREATE INDEX idx_form_submission_expiry ON form_submission (expires_at);
CREATE INDEX idx_form_submission_response ON form_submission (finished_at) WHERE response IS NOT NULL;
"""
DOWN = "DROP TABLE form_submission;"


def upgrade() -> None:
    run_script(UP)


def downgrade() -> None:
    run_script(DOWN)
