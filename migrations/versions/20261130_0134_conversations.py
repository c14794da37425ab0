"""Conversations with agents about a workspace, their timeline, and what their turns ask.

Revision: 0134
Revises: 0138
"""

from migrations.replacing import run_script

revision = "0134"
down_revision = "0138"
branch_labels = None
depends_on = None

UP = """
CREATE TABLE conversation (
    id text NOT NULL,
    thread_id text NOT NULL CONSTRAINT conversation_thread_id_fk REFERENCES thread (id) ON DELETE CASCADE,
    project_id text NOT NULL CONSTRAINT conversation_project_id_fk REFERENCES project (id) ON DELETE CASCADE,
    workspace_id text NOT NULL,
    title text,
    engine text NOT NULL DEFAULT 'builtin',
    level text NOT NULL DEFAULT 'virtual',
    agent text,
    model text,
    purpose text NOT NULL DEFAULT 'chat',
    work_manifest_hash text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT conversation_pk PRIMARY KEY (id),
    CONSTRAINT conversation_title_length CHECK (title IS NULL OR length(title) <= 255),
    CONSTRAINT conversation_engine_known CHECK (engine = ANY (ARRAY['builtin', 'acp', 'store'])),
    CONSTRAINT conversation_level_known CHECK (level = ANY (ARRAY['virtual', 'process', 'machine'])),
    CONSTRAINT conversation_purpose_known CHECK (purpose = ANY (ARRAY['chat', 'item_run'])),
    CONSTRAINT conversation_agent_named CHECK (engine = 'builtin' OR agent IS NOT NULL),
    CONSTRAINT conversation_workspace_fk FOREIGN KEY (project_id, workspace_id)
        REFERENCES workspace (project_id, id) ON DELETE CASCADE
);
CREATE UNIQUE INDEX idx_conversation_thread ON conversation (thread_id);
CREATE INDEX idx_conversation_list ON conversation (project_id, updated_at, id);
CREATE INDEX idx_conversation_workspace ON conversation (workspace_id, updated_at, id);

CREATE TABLE timeline_item (
    id text NOT NULL,
    conversation_id text NOT NULL
        CONSTRAINT timeline_item_conversation_id_fk REFERENCES conversation (id) ON DELETE CASCADE,
    project_id text NOT NULL,
    workspace_id text NOT NULL,
    turn_id text CONSTRAINT timeline_item_turn_id_fk REFERENCES turn (id) ON DELETE SET NULL,
    message_id text NOT NULL,
    snapshot_id text NOT NULL,
    operation_id text
        CONSTRAINT timeline_item_operation_id_fk REFERENCES workspace_operation (id) ON DELETE SET NULL,
    manifest_hash text NOT NULL,
    previous_manifest_hash text,
    files jsonb NOT NULL,
    files_count integer NOT NULL,
    state text NOT NULL,
    summary text,
    summary_status text NOT NULL,
    lost_race boolean NOT NULL DEFAULT false,
    sync_preview_id text,
    credits bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT timeline_item_pk PRIMARY KEY (id),
    CONSTRAINT timeline_item_summary_status_known
        CHECK (summary_status = ANY (ARRAY['pending', 'generating', 'completed', 'failed'])),
    CONSTRAINT timeline_item_state_known
        CHECK (state = ANY (ARRAY['completed', 'cancelled', 'failed', 'interrupted', 'expired'])),
    CONSTRAINT timeline_item_files_counted CHECK (files_count > 0),
    CONSTRAINT timeline_item_credits_not_negative CHECK (credits >= 0),
    CONSTRAINT timeline_item_workspace_fk FOREIGN KEY (project_id, workspace_id)
        REFERENCES workspace (project_id, id) ON DELETE CASCADE,
    CONSTRAINT timeline_item_snapshot_fk FOREIGN KEY (project_id, snapshot_id)
        REFERENCES snapshot (project_id, id) ON DELETE CASCADE
);
CREATE INDEX idx_timeline_item_list ON timeline_item (conversation_id, created_at, id);
CREATE UNIQUE INDEX idx_timeline_item_turn ON timeline_item (turn_id);
CREATE INDEX idx_timeline_item_workspace ON timeline_item (workspace_id);
CREATE INDEX idx_timeline_item_snapshot ON timeline_item (project_id, snapshot_id);
CREATE INDEX idx_timeline_item_operation ON timeline_item (operation_id);

CREATE TABLE conversation_question (
    id text NOT NULL,
    conversation_id text NOT NULL
        CONSTRAINT conversation_question_conversation_id_fk REFERENCES conversation (id) ON DELETE CASCADE,
    turn_id text NOT NULL CONSTRAINT conversation_question_turn_id_fk REFERENCES turn (id) ON DELETE CASCADE,
    kind text NOT NULL,
    tool_call_id text,
    questions jsonb NOT NULL,
    answers jsonb,
    state text NOT NULL DEFAULT 'open',
    created_at timestamptz NOT NULL DEFAULT now(),
    answered_at timestamptz,
    CONSTRAINT conversation_question_pk PRIMARY KEY (id),
    CONSTRAINT conversation_question_kind_known CHECK (kind = ANY (ARRAY['ask', 'permission', 'loop_guard'])),
    CONSTRAINT conversation_question_state_known
        CHECK (state = ANY (ARRAY['open', 'answered', 'rejected', 'expired'])),
    CONSTRAINT conversation_question_answered_or_not CHECK ((answers IS NOT NULL) = (state = 'answered'))
);
CREATE INDEX idx_conversation_question_list ON conversation_question (conversation_id, created_at);
CREATE INDEX idx_conversation_question_turn ON conversation_question (turn_id);
"""
DOWN = """
DROP TABLE conversation_question;
DROP TABLE timeline_item;
DROP TABLE conversation;
"""


def upgrade() -> None:
    """Apply the migration."""
    run_script(UP)


def downgrade() -> None:
    """Revert it."""
    run_script(DOWN)
