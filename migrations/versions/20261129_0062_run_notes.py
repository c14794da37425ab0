"""Settled credits, tags and score of runs, and links that share a run."""

from migrations.replacing import run_script

revision = "0062"
down_revision = "0060"
branch_labels = None
depends_on = None

UP = """
ALTER TABLE agent_run
    ADD COLUMN settled_credits bigint NOT NULL DEFAULT 0,
    ADD COLUMN tags text[],
    ADD COLUMN score smallint,
    ADD CONSTRAINT agent_run_score_known CHECK (score = ANY (ARRAY[-1, 1]));
CREATE INDEX idx_agent_run_account_credits
    ON agent_run ((COALESCE(org_id, user_id)), settled_credits, created_at, id);
CREATE INDEX idx_agent_run_account_duration
    ON agent_run ((COALESCE(org_id, user_id)), duration_ms, created_at, id) WHERE duration_ms IS NOT NULL;
CREATE INDEX idx_agent_run_tags_gin ON agent_run USING gin (tags);
CREATE TABLE run_credit_mark (
    id integer NOT NULL,
    counted_until timestamp,
    CONSTRAINT run_credit_mark_pk PRIMARY KEY (id)
);
CREATE TABLE run_share (
    id text NOT NULL DEFAULT (gen_random_uuid())::text,
    run_id text NOT NULL,
    token_hash text NOT NULL,
    with_messages boolean NOT NULL,
    created_by text,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    revoked_at timestamptz,
    CONSTRAINT run_share_pk PRIMARY KEY (id),
    CONSTRAINT run_share_token_hash_unique UNIQUE (token_hash),
    CONSTRAINT run_share_run_id_fk FOREIGN KEY (run_id) REFERENCES agent_run (id) ON DELETE CASCADE,
    CONSTRAINT run_share_created_by_fk FOREIGN KEY (created_by) REFERENCES "user" (id) ON DELETE SET NULL
);
CREATE INDEX idx_run_share_run ON run_share (run_id, created_at);
CREATE INDEX idx_run_share_created_by ON run_share (created_by);
"""
DOWN = """
DROP TABLE run_share;
DROP TABLE run_credit_mark;
DROP INDEX idx_agent_run_tags_gin;
DROP INDEX idx_agent_run_account_duration;
DROP INDEX idx_agent_run_account_credits;
ALTER TABLE agent_run DROP COLUMN settled_credits, DROP COLUMN tags, DROP COLUMN score;
"""


def upgrade() -> None:
    """Adds columns with constant defaults, so no row is rewritten; a job adds up the credits of earlier runs."""
    run_script(UP)


def downgrade() -> None:
    run_script(DOWN)
