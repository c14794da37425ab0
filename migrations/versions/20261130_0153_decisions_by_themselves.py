"""Decisions that are looked for after every fifth turn, what projects let a model do for that, and how tools of analysers ran.

Revision: 0153
Revises: 0152
"""

from migrations.replacing import run_script

revision = "0153"
down_revision = "0152"
branch_labels = None
depends_on = None

UP = """
CREATE TABLE decision_setting (
    project_id text NOT NULL CONSTRAINT decision_setting_pk PRIMARY KEY
        CONSTRAINT decision_setting_project_id_fk REFERENCES project (id) ON DELETE CASCADE,
    model text,
    daily_credits integer NOT NULL DEFAULT 20,
    changed_by text CONSTRAINT decision_setting_changed_by_fk REFERENCES "user" (id) ON DELETE SET NULL,
    changed_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT decision_setting_model_length CHECK (model IS NULL OR (model <> '' AND length(model) <= 200)),
    CONSTRAINT decision_setting_daily_credits_range CHECK (daily_credits >= 1 AND daily_credits <= 10000)
);
CREATE INDEX idx_decision_setting_changed_by ON decision_setting (changed_by);

CREATE TABLE decision_extraction (
    turn_id text NOT NULL CONSTRAINT decision_extraction_pk PRIMARY KEY
        CONSTRAINT decision_extraction_turn_id_fk REFERENCES turn (id) ON DELETE CASCADE,
    project_id text NOT NULL CONSTRAINT decision_extraction_project_id_fk REFERENCES project (id) ON DELETE CASCADE,
    conversation_id text NOT NULL
        CONSTRAINT decision_extraction_conversation_id_fk REFERENCES conversation (id) ON DELETE CASCADE,
    state text NOT NULL DEFAULT 'queued',
    model text,
    request_id text,
    most integer NOT NULL DEFAULT 0,
    micro_credits bigint NOT NULL DEFAULT 0,
    found integer NOT NULL DEFAULT 0,
    problem text,
    queued_at timestamptz NOT NULL DEFAULT now(),
    asked_at timestamptz,
    done_at timestamptz,
    CONSTRAINT decision_extraction_state_known CHECK (state = ANY (ARRAY['queued', 'asking', 'done'])),
    CONSTRAINT decision_extraction_counts_not_negative CHECK (most >= 0 AND micro_credits >= 0 AND found >= 0),
    CONSTRAINT decision_extraction_asked_with_model CHECK ((model IS NULL) = (request_id IS NULL)),
    CONSTRAINT decision_extraction_done_at_set CHECK ((state = 'done') = (done_at IS NOT NULL))
);
CREATE INDEX idx_decision_extraction_project ON decision_extraction (project_id, queued_at);
CREATE INDEX idx_decision_extraction_conversation ON decision_extraction (conversation_id);

ALTER TABLE workspace_analysis ADD COLUMN sandboxed boolean NOT NULL DEFAULT false;
"""

DOWN = """
ALTER TABLE workspace_analysis DROP COLUMN sandboxed;
DROP TABLE decision_extraction, decision_setting;
"""


def upgrade() -> None:
    """Apply the migration."""
    run_script(UP)


def downgrade() -> None:
    """Revert it."""
    run_script(DOWN)
