"""Documents, their text in chunks, and the words of it.

Revision: 0111
Revises: 0110
"""

from migrations.replacing import run_script

revision = "0111"
down_revision = "0110"
branch_labels = None
depends_on = None

UP = """
CREATE TABLE document_source (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT document_source_pk PRIMARY KEY,
    account_id text NOT NULL,
    sha256 text NOT NULL,
    version integer NOT NULL,
    unit text NOT NULL,
    part_starts integer[] NOT NULL,
    characters integer NOT NULL,
    tokens integer NOT NULL,
    chunks integer NOT NULL,
    term_count bigint NOT NULL,
    report jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT document_source_content_unique UNIQUE (account_id, sha256, version)
);

CREATE TABLE document (
    id text NOT NULL CONSTRAINT document_pk PRIMARY KEY,
    account_id text NOT NULL,
    user_id text CONSTRAINT document_user_id_fk REFERENCES "user" (id) ON DELETE SET NULL,
    scope_kind text NOT NULL,
    scope_id text NOT NULL,
    name text NOT NULL,
    media_type text NOT NULL,
    bytes bigint NOT NULL,
    sha256 text NOT NULL,
    state text NOT NULL,
    source_id bigint CONSTRAINT document_source_id_fk REFERENCES document_source (id) ON DELETE RESTRICT,
    report jsonb NOT NULL DEFAULT '{}'::jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz,
    CONSTRAINT document_scope_kind_plain CHECK (scope_kind ~ '^[a-z_]{1,30}$'::text),
    CONSTRAINT document_state_known CHECK (state = ANY (ARRAY['queued'::text, 'parsing'::text, 'ready'::text, 'failed'::text])),
    CONSTRAINT document_bytes_limited CHECK (bytes >= 0 AND bytes <= 20971520),
    CONSTRAINT document_ready_has_source CHECK (state <> 'ready'::text OR source_id IS NOT NULL)
);
CREATE INDEX idx_document_scope ON document (scope_kind, scope_id, created_at, id);
CREATE INDEX idx_document_account ON document (account_id, sha256);
CREATE INDEX idx_document_user ON document (user_id, id);
CREATE INDEX idx_document_source ON document (source_id);
CREATE INDEX idx_document_sha256 ON document (sha256);
CREATE INDEX idx_document_deleted ON document (deleted_at) WHERE deleted_at IS NOT NULL;

CREATE TABLE chunk (
    source_id bigint NOT NULL CONSTRAINT chunk_source_id_fk REFERENCES document_source (id) ON DELETE CASCADE,
    seq integer NOT NULL,
    start integer NOT NULL,
    "end" integer NOT NULL,
    first integer NOT NULL,
    last integer NOT NULL,
    tokens integer NOT NULL,
    length integer NOT NULL,
    text text NOT NULL,
    terms tsvector NOT NULL,
    CONSTRAINT chunk_pk PRIMARY KEY (source_id, seq)
);
CREATE INDEX idx_chunk_terms ON chunk USING gin (terms) WITH (fastupdate = off);

CREATE TABLE source_term (
    source_id bigint NOT NULL CONSTRAINT source_term_source_id_fk REFERENCES document_source (id) ON DELETE CASCADE,
    term text COLLATE "C" NOT NULL,
    chunks integer NOT NULL,
    CONSTRAINT source_term_pk PRIMARY KEY (source_id, term)
);
"""


def upgrade() -> None:
    """Apply the migration."""
    run_script(UP)


def downgrade() -> None:
    """Revert it."""
    run_script("DROP TABLE source_term, chunk, document, document_source")
