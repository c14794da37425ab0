"""Search within one person's messages, links that can be shown again, and indexes of threads by their owner.

Revision: 0118
Revises: 0117

The tables are new: no release has filled them.
"""

from migrations.replacing import run_script

revision = "0118"
down_revision = "0117"
branch_labels = None
depends_on = None

UP = """
DROP INDEX idx_thread_user;
CREATE INDEX idx_thread_user ON thread (user_id, account_id, active_at, id);

ALTER TABLE thread_message ADD COLUMN user_id TEXT;
UPDATE thread_message SET user_id = thread.user_id FROM thread WHERE thread.id = thread_message.thread_id;
ALTER TABLE thread_message ALTER COLUMN user_id SET NOT NULL;
ALTER TABLE thread_message DROP COLUMN terms;
ALTER TABLE thread_message ADD COLUMN terms TSVECTOR GENERATED ALWAYS AS
    ((to_tsvector('simple'::regconfig, "left"(text, 200000)) || array_to_tsvector(ARRAY[(' '::text || user_id)]))) STORED NOT NULL;
CREATE INDEX idx_thread_message_terms ON thread_message USING gin (terms) WITH (fastupdate = off);

DROP TABLE thread_share;
CREATE TABLE thread_share (
    id TEXT DEFAULT (gen_random_uuid())::text NOT NULL,
    thread_id TEXT NOT NULL,
    token_hash TEXT NOT NULL,
    head_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    expires_at TIMESTAMP WITH TIME ZONE,
    revoked_at TIMESTAMP WITH TIME ZONE,
    views INTEGER DEFAULT 0 NOT NULL,
    CONSTRAINT thread_share_pk PRIMARY KEY (id),
    CONSTRAINT thread_share_token_hash_unique UNIQUE (token_hash),
    CONSTRAINT thread_share_head_fk FOREIGN KEY(thread_id, head_id) REFERENCES thread_message (thread_id, id) ON DELETE CASCADE,
    CONSTRAINT thread_share_thread_id_fk FOREIGN KEY(thread_id) REFERENCES thread (id) ON DELETE CASCADE,
    CONSTRAINT thread_share_user_id_fk FOREIGN KEY(user_id) REFERENCES "user" (id) ON DELETE CASCADE
);
CREATE INDEX idx_thread_share_thread ON thread_share (thread_id, head_id, created_at);
CREATE INDEX idx_thread_share_user ON thread_share (user_id, created_at, id);
"""

DOWN = """
DROP TABLE thread_share;
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

ALTER TABLE thread_message DROP COLUMN terms;
ALTER TABLE thread_message DROP COLUMN user_id;
ALTER TABLE thread_message ADD COLUMN terms TSVECTOR GENERATED ALWAYS AS
    (to_tsvector('simple'::regconfig, "left"(text, 200000))) STORED NOT NULL;
CREATE INDEX idx_thread_message_terms ON thread_message USING gin (terms) WITH (fastupdate = off);

DROP INDEX idx_thread_user;
CREATE INDEX idx_thread_user ON thread (user_id, account_id, active_at, id) WHERE (deleted_at IS NULL);
"""


def upgrade() -> None:
    """Apply the migration."""
    run_script(UP)


def downgrade() -> None:
    """Revert it."""
    run_script(DOWN)
