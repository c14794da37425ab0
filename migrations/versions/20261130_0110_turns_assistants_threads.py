"""Turns, assistants and threads.

Revision: 0110
Revises: 0109
"""

from migrations.replacing import run_script

revision = "0110"
down_revision = "0109"
branch_labels = None
depends_on = None

UP = """
CREATE TABLE turn (
    id TEXT DEFAULT ('turn_'::text || gen_random_uuid()) NOT NULL,
    kind TEXT NOT NULL,
    subject_id TEXT NOT NULL,
    branch_id TEXT NOT NULL,
    account_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    key_id TEXT NOT NULL,
    key_secret TEXT,
    state TEXT DEFAULT 'queued'::text NOT NULL,
    request JSONB DEFAULT '{}'::jsonb NOT NULL,
    required_action JSONB,
    error_code TEXT,
    error_message TEXT,
    run_id TEXT,
    rounds INTEGER DEFAULT 0 NOT NULL,
    budget BIGINT,
    reserved BIGINT DEFAULT 0 NOT NULL,
    credits BIGINT,
    lease_owner TEXT,
    lease_until TIMESTAMP WITH TIME ZONE,
    call_id TEXT,
    stop TEXT,
    last_seq INTEGER DEFAULT 0 NOT NULL,
    expires_at TIMESTAMP WITH TIME ZONE,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    started_at TIMESTAMP WITH TIME ZONE,
    ended_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT turn_pk PRIMARY KEY (id),
    CONSTRAINT turn_state_known CHECK ((state = ANY (ARRAY['queued'::text, 'running'::text, 'requires_action'::text, 'paused'::text, 'completed'::text, 'failed'::text, 'cancelled'::text, 'interrupted'::text, 'expired'::text]))),
    CONSTRAINT turn_running_is_leased CHECK (((state = 'running'::text) = (lease_owner IS NOT NULL))),
    CONSTRAINT turn_budget_positive CHECK (((budget IS NULL) OR (budget > 0))),
    CONSTRAINT turn_reserved_not_negative CHECK ((reserved >= 0)),
    CONSTRAINT turn_stop_known CHECK (((stop IS NULL) OR (stop = ANY (ARRAY['stop'::text, 'interrupt'::text])))),
    CONSTRAINT turn_account_id_fk FOREIGN KEY(account_id) REFERENCES credit_account (id) ON DELETE CASCADE,
    CONSTRAINT turn_user_id_fk FOREIGN KEY(user_id) REFERENCES "user" (id) ON DELETE CASCADE
);
CREATE INDEX idx_turn_account ON turn (account_id, created_at);
CREATE INDEX idx_turn_expires ON turn (expires_at) WHERE (expires_at IS NOT NULL);
CREATE INDEX idx_turn_lease ON turn (lease_until) WHERE (lease_until IS NOT NULL);
CREATE UNIQUE INDEX idx_turn_one_active ON turn (branch_id) WHERE (state = ANY (ARRAY['running'::text, 'requires_action'::text, 'paused'::text]));
CREATE INDEX idx_turn_queued ON turn (branch_id, created_at) WHERE (state = 'queued'::text);
CREATE INDEX idx_turn_run ON turn (run_id);
CREATE INDEX idx_turn_subject ON turn (subject_id, created_at, id);
CREATE INDEX idx_turn_user ON turn (user_id);

CREATE TABLE turn_event (
    turn_id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    type TEXT NOT NULL,
    data JSONB NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT turn_event_pk PRIMARY KEY (turn_id, seq),
    CONSTRAINT turn_event_turn_id_fk FOREIGN KEY(turn_id) REFERENCES turn (id) ON DELETE CASCADE
);

CREATE TABLE assistant (
    id TEXT DEFAULT ('agnt_'::text || gen_random_uuid()) NOT NULL,
    account_id TEXT NOT NULL,
    user_id TEXT,
    name TEXT NOT NULL,
    version INTEGER DEFAULT 1 NOT NULL,
    published_as TEXT,
    budget BIGINT,
    spent BIGINT DEFAULT 0 NOT NULL,
    reserved BIGINT DEFAULT 0 NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    deleted_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT assistant_pk PRIMARY KEY (id),
    CONSTRAINT assistant_version_positive CHECK ((version > 0)),
    CONSTRAINT assistant_budget_not_negative CHECK (((budget IS NULL) OR (budget >= 0))),
    CONSTRAINT assistant_spent_not_negative CHECK (((spent >= 0) AND (reserved >= 0))),
    CONSTRAINT assistant_account_id_fk FOREIGN KEY(account_id) REFERENCES credit_account (id) ON DELETE CASCADE,
    CONSTRAINT assistant_user_id_fk FOREIGN KEY(user_id) REFERENCES "user" (id) ON DELETE SET NULL
);
CREATE INDEX idx_assistant_account ON assistant (account_id, updated_at, id) WHERE (deleted_at IS NULL);
CREATE INDEX idx_assistant_deleted ON assistant (account_id, deleted_at) WHERE (deleted_at IS NOT NULL);
CREATE INDEX idx_assistant_user ON assistant (user_id);

CREATE TABLE assistant_version (
    assistant_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    name TEXT NOT NULL,
    description TEXT,
    instructions TEXT NOT NULL,
    tools JSONB DEFAULT '[]'::jsonb NOT NULL,
    mcp_servers JSONB DEFAULT '[]'::jsonb NOT NULL,
    context TEXT,
    model TEXT,
    model_params JSONB DEFAULT '{}'::jsonb NOT NULL,
    variables JSONB DEFAULT '{}'::jsonb NOT NULL,
    metadata JSONB DEFAULT '{}'::jsonb NOT NULL,
    created_by TEXT,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT assistant_version_pk PRIMARY KEY (assistant_id, version),
    CONSTRAINT assistant_version_assistant_id_fk FOREIGN KEY(assistant_id) REFERENCES assistant (id) ON DELETE CASCADE,
    CONSTRAINT assistant_version_created_by_fk FOREIGN KEY(created_by) REFERENCES "user" (id) ON DELETE SET NULL
);

CREATE TABLE thread (
    id TEXT DEFAULT ('thrd_'::text || gen_random_uuid()) NOT NULL,
    account_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    kind TEXT DEFAULT 'thread'::text NOT NULL,
    name TEXT NOT NULL,
    instructions TEXT,
    model TEXT,
    assistant_id TEXT,
    storage_id TEXT,
    metadata JSONB DEFAULT '{}'::jsonb NOT NULL,
    head_id TEXT,
    last_seq INTEGER DEFAULT 0 NOT NULL,
    budget BIGINT,
    spent BIGINT DEFAULT 0 NOT NULL,
    reserved BIGINT DEFAULT 0 NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    active_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    deleted_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT thread_pk PRIMARY KEY (id),
    CONSTRAINT thread_budget_not_negative CHECK (((budget IS NULL) OR (budget >= 0))),
    CONSTRAINT thread_spent_not_negative CHECK (((spent >= 0) AND (reserved >= 0))),
    CONSTRAINT thread_account_id_fk FOREIGN KEY(account_id) REFERENCES credit_account (id) ON DELETE CASCADE,
    CONSTRAINT thread_user_id_fk FOREIGN KEY(user_id) REFERENCES "user" (id) ON DELETE CASCADE,
    CONSTRAINT thread_assistant_id_fk FOREIGN KEY(assistant_id) REFERENCES assistant (id) ON DELETE SET NULL
);
CREATE INDEX idx_thread_account ON thread (account_id);
CREATE INDEX idx_thread_assistant ON thread (assistant_id, active_at);
CREATE INDEX idx_thread_deleted ON thread (deleted_at) WHERE (deleted_at IS NOT NULL);
CREATE UNIQUE INDEX idx_thread_storage ON thread (storage_id) WHERE (storage_id IS NOT NULL);
CREATE INDEX idx_thread_user ON thread (user_id, account_id, active_at, id) WHERE (deleted_at IS NULL);

CREATE TABLE thread_message (
    id TEXT DEFAULT ('msg_'::text || gen_random_uuid()) NOT NULL,
    thread_id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    parent_id TEXT,
    branch_id TEXT NOT NULL,
    role TEXT NOT NULL,
    state TEXT DEFAULT 'completed'::text NOT NULL,
    content JSONB DEFAULT '[]'::jsonb NOT NULL,
    tool_calls JSONB,
    tool_call_id TEXT,
    name TEXT,
    model TEXT,
    finish_reason TEXT,
    citations JSONB,
    turn_id TEXT,
    message_id TEXT,
    credits BIGINT,
    usage JSONB,
    metadata JSONB DEFAULT '{}'::jsonb NOT NULL,
    text TEXT DEFAULT ''::text NOT NULL,
    terms TSVECTOR GENERATED ALWAYS AS (to_tsvector('simple'::regconfig, "left"(text, 200000))) STORED NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    completed_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT thread_message_pk PRIMARY KEY (id),
    CONSTRAINT thread_message_seq_positive CHECK ((seq > 0)),
    CONSTRAINT thread_message_role_known CHECK ((role = ANY (ARRAY['user'::text, 'assistant'::text, 'system'::text, 'tool'::text]))),
    CONSTRAINT thread_message_state_known CHECK ((state = ANY (ARRAY['in_progress'::text, 'completed'::text, 'incomplete'::text]))),
    CONSTRAINT thread_message_parent_fk FOREIGN KEY(thread_id, parent_id) REFERENCES thread_message (thread_id, id) ON DELETE CASCADE,
    CONSTRAINT thread_message_own UNIQUE (thread_id, id),
    CONSTRAINT thread_message_thread_id_fk FOREIGN KEY(thread_id) REFERENCES thread (id) ON DELETE CASCADE,
    CONSTRAINT thread_message_turn_id_fk FOREIGN KEY(turn_id) REFERENCES turn (id) ON DELETE SET NULL
);
CREATE INDEX idx_thread_message_branch ON thread_message (branch_id, seq);
CREATE INDEX idx_thread_message_call ON thread_message (message_id);
CREATE INDEX idx_thread_message_parent ON thread_message (thread_id, parent_id);
CREATE UNIQUE INDEX idx_thread_message_seq ON thread_message (thread_id, seq);
CREATE INDEX idx_thread_message_terms ON thread_message USING gin (terms) WITH (fastupdate = off);
CREATE INDEX idx_thread_message_turn ON thread_message (turn_id);

CREATE TABLE thread_share (
    token_hash TEXT NOT NULL,
    thread_id TEXT NOT NULL,
    head_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    hint TEXT NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    expires_at TIMESTAMP WITH TIME ZONE,
    revoked_at TIMESTAMP WITH TIME ZONE,
    views INTEGER DEFAULT 0 NOT NULL,
    CONSTRAINT thread_share_pk PRIMARY KEY (token_hash),
    CONSTRAINT thread_share_thread_id_fk FOREIGN KEY(thread_id) REFERENCES thread (id) ON DELETE CASCADE,
    CONSTRAINT thread_share_user_id_fk FOREIGN KEY(user_id) REFERENCES "user" (id) ON DELETE CASCADE
);
CREATE INDEX idx_thread_share_thread ON thread_share (thread_id, created_at);
"""

DOWN = "DROP TABLE thread_share, thread_message, thread, assistant_version, assistant, turn_event, turn"


def upgrade() -> None:
    """Apply the migration."""
    run_script(UP)


def downgrade() -> None:
    """Revert it."""
    run_script(DOWN)
