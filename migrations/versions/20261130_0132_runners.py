"""Runners of accounts, the work that they take, and what is asked of them meanwhile.

Revision: 0132
Revises: 0139
"""

from migrations.replacing import run_script

revision = "0132"
down_revision = "0139"
branch_labels = None
depends_on = None

UP = """
CREATE TABLE runner (
    id text NOT NULL DEFAULT ('runner_'::text || gen_random_uuid()),
    account_id text NOT NULL,
    created_by text,
    key_id text NOT NULL,
    name text NOT NULL,
    labels text[] NOT NULL DEFAULT '{}'::text[],
    version text,
    platform text,
    isolation text,
    last_seen_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT runner_pk PRIMARY KEY (id),
    CONSTRAINT runner_account_id_name_unique UNIQUE (account_id, name),
    CONSTRAINT runner_key_id_unique UNIQUE (key_id),
    CONSTRAINT runner_name_length CHECK (name <> '' AND length(name) <= 60),
    CONSTRAINT runner_labels_few CHECK (cardinality(labels) <= 20),
    CONSTRAINT runner_account_id_fk FOREIGN KEY (account_id) REFERENCES credit_account (id) ON DELETE CASCADE,
    CONSTRAINT runner_created_by_fk FOREIGN KEY (created_by) REFERENCES "user" (id) ON DELETE SET NULL,
    CONSTRAINT runner_key_id_fk FOREIGN KEY (key_id) REFERENCES api_key (key_id) ON DELETE CASCADE
);
CREATE INDEX idx_runner_created_by ON runner (created_by);
CREATE TABLE runner_work (
    id text NOT NULL DEFAULT ('work_'::text || gen_random_uuid()),
    account_id text NOT NULL,
    kind text NOT NULL,
    labels text[] NOT NULL DEFAULT '{}'::text[],
    state text NOT NULL DEFAULT 'queued'::text,
    runner_id text,
    attempts integer NOT NULL DEFAULT 0,
    lease_until timestamptz,
    opener_until timestamptz NOT NULL,
    request jsonb NOT NULL,
    stop_asked boolean NOT NULL DEFAULT false,
    last_seq integer NOT NULL DEFAULT 0,
    answered_seq integer NOT NULL DEFAULT 0,
    stop_seq integer NOT NULL DEFAULT 0,
    error text,
    created_at timestamptz NOT NULL DEFAULT now(),
    ended_at timestamptz,
    CONSTRAINT runner_work_pk PRIMARY KEY (id),
    CONSTRAINT runner_work_kind_known CHECK (kind = ANY (ARRAY['workplace'::text])),
    CONSTRAINT runner_work_state_known CHECK (
        state = ANY (ARRAY['queued'::text, 'leased'::text, 'running'::text, 'done'::text, 'failed'::text, 'lost'::text])
    ),
    CONSTRAINT runner_work_leased CHECK (
        (state = ANY (ARRAY['leased'::text, 'running'::text])) = (lease_until IS NOT NULL)
    ),
    CONSTRAINT runner_work_ended CHECK (
        (state = ANY (ARRAY['done'::text, 'failed'::text, 'lost'::text])) = (ended_at IS NOT NULL)
    ),
    CONSTRAINT runner_work_account_id_fk FOREIGN KEY (account_id) REFERENCES credit_account (id) ON DELETE CASCADE,
    CONSTRAINT runner_work_runner_id_fk FOREIGN KEY (runner_id) REFERENCES runner (id) ON DELETE SET NULL
);
CREATE INDEX idx_runner_work_account ON runner_work (account_id, created_at, id);
CREATE INDEX idx_runner_work_runner ON runner_work (runner_id);
CREATE INDEX idx_runner_work_open ON runner_work (opener_until) WHERE ended_at IS NULL;
CREATE TABLE runner_action (
    work_id text NOT NULL,
    seq integer NOT NULL,
    verb text NOT NULL,
    sealed text NOT NULL,
    output text NOT NULL DEFAULT ''::text,
    output_parts integer NOT NULL DEFAULT 0,
    reply jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT runner_action_pk PRIMARY KEY (work_id, seq),
    CONSTRAINT runner_action_work_id_fk FOREIGN KEY (work_id) REFERENCES runner_work (id) ON DELETE CASCADE
);
"""

DOWN = """
DROP TABLE runner_action;
DROP TABLE runner_work;
DROP TABLE runner;
"""


def upgrade() -> None:
    """Apply the migration."""
    run_script(UP)


def downgrade() -> None:
    """Revert it."""
    run_script(DOWN)
