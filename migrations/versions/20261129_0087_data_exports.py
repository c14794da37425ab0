"""Exports of a user's data.

Revision: 0087
Revises: 0086
"""

from migrations.replacing import run_script

revision = "0087"
down_revision = "0086"
branch_labels = None
depends_on = None

UP = """
CREATE TABLE data_export (
    id text NOT NULL DEFAULT (gen_random_uuid())::text,
    user_id text NOT NULL,
    state text NOT NULL DEFAULT 'requested'::text,
    step integer NOT NULL DEFAULT 0,
    steps integer NOT NULL DEFAULT 0,
    bytes bigint NOT NULL DEFAULT 0,
    parts integer NOT NULL DEFAULT 0,
    attempts integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    expires_at timestamptz,
    CONSTRAINT data_export_pk PRIMARY KEY (id),
    CONSTRAINT data_export_user_id_fk FOREIGN KEY (user_id) REFERENCES "user" (id) ON DELETE CASCADE,
    CONSTRAINT data_export_state_known CHECK (
        state = ANY (ARRAY['requested'::text, 'running'::text, 'ready'::text, 'failed'::text, 'expired'::text])
    )
);
CREATE UNIQUE INDEX idx_data_export_open ON data_export (user_id)
    WHERE state = ANY (ARRAY['requested'::text, 'running'::text]);
CREATE INDEX idx_data_export_user ON data_export (user_id, created_at);
CREATE INDEX idx_data_export_due ON data_export (expires_at) WHERE state = 'ready'::text;
"""
DOWN = """
DROP TABLE data_export;
"""


def upgrade() -> None:
    run_script(UP)


def downgrade() -> None:
    run_script(DOWN)
