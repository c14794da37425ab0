"""Tools and secrets of assistants, and assistants that were purged.

Revision: 0114
Revises: 0112
"""

from migrations.replacing import run_script

revision = "0114"
down_revision = "0112"
branch_labels = None
depends_on = None

UP = """
ALTER TABLE assistant ADD COLUMN purged_at TIMESTAMP WITH TIME ZONE;

CREATE TABLE tool (
    id TEXT DEFAULT ('tool_'::text || gen_random_uuid()) NOT NULL,
    account_id TEXT NOT NULL,
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    parameters JSONB NOT NULL,
    url TEXT NOT NULL,
    method TEXT DEFAULT 'POST'::text NOT NULL,
    headers JSONB DEFAULT '{}'::jsonb NOT NULL,
    timeout_seconds INTEGER DEFAULT 30 NOT NULL,
    retries INTEGER DEFAULT 0 NOT NULL,
    created_by TEXT,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT tool_pk PRIMARY KEY (id),
    CONSTRAINT tool_method_known CHECK ((method = ANY (ARRAY['GET'::text, 'POST'::text, 'PUT'::text, 'PATCH'::text, 'DELETE'::text]))),
    CONSTRAINT tool_timeout_known CHECK (((timeout_seconds >= 1) AND (timeout_seconds <= 120))),
    CONSTRAINT tool_retries_known CHECK (((retries >= 0) AND (retries <= 3))),
    CONSTRAINT tool_account_id_fk FOREIGN KEY(account_id) REFERENCES credit_account (id) ON DELETE CASCADE,
    CONSTRAINT tool_created_by_fk FOREIGN KEY(created_by) REFERENCES "user" (id) ON DELETE SET NULL
);
CREATE UNIQUE INDEX idx_tool_name ON tool (account_id, name);
CREATE INDEX idx_tool_created_by ON tool (created_by);

CREATE TABLE tool_secret (
    account_id TEXT NOT NULL,
    name TEXT NOT NULL,
    host TEXT NOT NULL,
    sealed TEXT NOT NULL,
    hint TEXT NOT NULL,
    created_by TEXT,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT tool_secret_pk PRIMARY KEY (account_id, name),
    CONSTRAINT tool_secret_account_id_fk FOREIGN KEY(account_id) REFERENCES credit_account (id) ON DELETE CASCADE,
    CONSTRAINT tool_secret_created_by_fk FOREIGN KEY(created_by) REFERENCES "user" (id) ON DELETE SET NULL
);
CREATE INDEX idx_tool_secret_created_by ON tool_secret (created_by);
"""

DOWN = """
DROP TABLE tool_secret, tool;
ALTER TABLE assistant DROP COLUMN purged_at;
"""


def upgrade() -> None:
    """Apply the migration."""
    run_script(UP)


def downgrade() -> None:
    """Revert it."""
    run_script(DOWN)
