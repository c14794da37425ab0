"""Projects, workspaces, snapshots, the bytes of their files, and operations.

Revision: 0123
Revises: 0120
"""

from migrations.replacing import run_script

revision = "0123"
down_revision = "0120"
branch_labels = None
depends_on = None

UP = """
CREATE TABLE project (
    id text NOT NULL CONSTRAINT project_pk PRIMARY KEY,
    account_id text NOT NULL CONSTRAINT project_account_id_fk REFERENCES credit_account (id) ON DELETE CASCADE,
    created_by text CONSTRAINT project_created_by_fk REFERENCES "user" (id) ON DELETE SET NULL,
    name text NOT NULL,
    intent text,
    brief jsonb,
    last_snapshot_id text,
    main_workspace_id text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz,
    CONSTRAINT project_name_length CHECK (name <> '' AND length(name) <= 200),
    CONSTRAINT project_intent_known CHECK (intent IS NULL OR intent = ANY (ARRAY[
        'startup', 'personal_tool', 'learning', 'fun', 'portfolio', 'creative', 'exploration', 'open_source'])),
    CONSTRAINT project_brief_object CHECK (brief IS NULL OR jsonb_typeof(brief) = 'object')
);
CREATE INDEX idx_project_list ON project (account_id, updated_at, id);
CREATE INDEX idx_project_created_by ON project (created_by);
CREATE INDEX idx_project_deleted ON project (deleted_at) WHERE deleted_at IS NOT NULL;

CREATE TABLE snapshot (
    project_id text NOT NULL CONSTRAINT snapshot_project_id_fk REFERENCES project (id) ON DELETE CASCADE,
    id text NOT NULL,
    workspace_id text,
    manifest_hash text NOT NULL,
    generation integer NOT NULL,
    source text NOT NULL,
    summary text,
    message text,
    agent text,
    author_name text,
    author_email text,
    client_created_at timestamptz,
    verified boolean NOT NULL,
    created_by text CONSTRAINT snapshot_created_by_fk REFERENCES "user" (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT snapshot_pk PRIMARY KEY (project_id, id),
    CONSTRAINT snapshot_id_length CHECK (id <> '' AND length(id) <= 128),
    CONSTRAINT snapshot_source_known CHECK (source = ANY (ARRAY['cli', 'web', 'system', 'import'])),
    CONSTRAINT snapshot_generation_positive CHECK (generation > 0)
);
CREATE INDEX idx_snapshot_project ON snapshot (project_id, created_at, id);
CREATE INDEX idx_snapshot_workspace ON snapshot (workspace_id, created_at);
CREATE INDEX idx_snapshot_id ON snapshot (id);
CREATE INDEX idx_snapshot_created_by ON snapshot (created_by);

CREATE TABLE snapshot_parent (
    project_id text NOT NULL,
    child_id text NOT NULL,
    ord integer NOT NULL,
    parent_id text NOT NULL,
    CONSTRAINT snapshot_parent_pk PRIMARY KEY (project_id, child_id, ord),
    CONSTRAINT snapshot_parent_child_fk FOREIGN KEY (project_id, child_id)
        REFERENCES snapshot (project_id, id) ON DELETE CASCADE,
    CONSTRAINT snapshot_parent_parent_fk FOREIGN KEY (project_id, parent_id)
        REFERENCES snapshot (project_id, id) ON DELETE NO ACTION,
    CONSTRAINT snapshot_parent_ord_not_negative CHECK (ord >= 0),
    CONSTRAINT snapshot_parent_not_its_own CHECK (parent_id <> child_id)
);
CREATE UNIQUE INDEX idx_snapshot_parent_unique ON snapshot_parent (project_id, child_id, parent_id);
CREATE INDEX idx_snapshot_parent_parent ON snapshot_parent (project_id, parent_id);

CREATE TABLE workspace (
    id text NOT NULL CONSTRAINT workspace_pk PRIMARY KEY,
    project_id text NOT NULL CONSTRAINT workspace_project_id_fk REFERENCES project (id) ON DELETE CASCADE,
    created_by text CONSTRAINT workspace_created_by_fk REFERENCES "user" (id) ON DELETE SET NULL,
    name text NOT NULL,
    machine_id text,
    base_snapshot_id text,
    current_snapshot_id text,
    current_manifest_hash text,
    local_path text,
    last_seen_at timestamptz,
    merge_history jsonb,
    version integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz,
    CONSTRAINT workspace_base_snapshot_fk FOREIGN KEY (project_id, base_snapshot_id)
        REFERENCES snapshot (project_id, id) ON DELETE NO ACTION,
    CONSTRAINT workspace_current_snapshot_fk FOREIGN KEY (project_id, current_snapshot_id)
        REFERENCES snapshot (project_id, id) ON DELETE NO ACTION,
    CONSTRAINT workspace_name_length CHECK (name <> '' AND length(name) <= 200),
    CONSTRAINT workspace_version_positive CHECK (version > 0)
);
CREATE UNIQUE INDEX idx_workspace_project_id ON workspace (project_id, id);
CREATE INDEX idx_workspace_list ON workspace (project_id, created_at, id);
CREATE UNIQUE INDEX idx_workspace_name ON workspace (project_id, lower(name)) WHERE deleted_at IS NULL;
CREATE INDEX idx_workspace_created_by ON workspace (created_by);

ALTER TABLE snapshot ADD CONSTRAINT snapshot_workspace_fk FOREIGN KEY (project_id, workspace_id)
    REFERENCES workspace (project_id, id) ON DELETE NO ACTION;
ALTER TABLE project
    ADD CONSTRAINT project_last_snapshot_fk FOREIGN KEY (id, last_snapshot_id)
        REFERENCES snapshot (project_id, id) ON DELETE NO ACTION,
    ADD CONSTRAINT project_main_workspace_fk FOREIGN KEY (id, main_workspace_id)
        REFERENCES workspace (project_id, id) ON DELETE NO ACTION;

CREATE TABLE workspace_operation (
    id text NOT NULL CONSTRAINT workspace_operation_pk PRIMARY KEY,
    project_id text NOT NULL CONSTRAINT workspace_operation_project_id_fk REFERENCES project (id) ON DELETE CASCADE,
    workspace_id text NOT NULL,
    version integer,
    kind text NOT NULL,
    actor text NOT NULL,
    user_id text CONSTRAINT workspace_operation_user_id_fk REFERENCES "user" (id) ON DELETE SET NULL,
    before_snapshot_id text,
    before_manifest_hash text,
    after_snapshot_id text,
    after_manifest_hash text,
    undoes text CONSTRAINT workspace_operation_undoes_fk REFERENCES workspace_operation (id) ON DELETE NO ACTION,
    cause text,
    detail jsonb,
    cost bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT workspace_operation_workspace_fk FOREIGN KEY (project_id, workspace_id)
        REFERENCES workspace (project_id, id) ON DELETE CASCADE,
    CONSTRAINT workspace_operation_before_snapshot_fk FOREIGN KEY (project_id, before_snapshot_id)
        REFERENCES snapshot (project_id, id) ON DELETE NO ACTION,
    CONSTRAINT workspace_operation_after_snapshot_fk FOREIGN KEY (project_id, after_snapshot_id)
        REFERENCES snapshot (project_id, id) ON DELETE NO ACTION,
    CONSTRAINT workspace_operation_kind_known CHECK (kind = ANY (ARRAY[
        'snapshot', 'manifest', 'set_main', 'restore', 'undo', 'sync', 'land', 'turn'])),
    CONSTRAINT workspace_operation_actor_known CHECK (actor = ANY (ARRAY['cli', 'web', 'system'])),
    CONSTRAINT workspace_operation_version_or_set_main CHECK ((version IS NULL) = (kind = 'set_main')),
    CONSTRAINT workspace_operation_undo_undoes CHECK (undoes IS NULL OR kind = 'undo'),
    CONSTRAINT workspace_operation_cost_not_negative CHECK (cost >= 0)
);
CREATE UNIQUE INDEX idx_workspace_operation_version ON workspace_operation (workspace_id, version);
CREATE INDEX idx_workspace_operation_project ON workspace_operation (project_id, created_at, id);
CREATE INDEX idx_workspace_operation_user ON workspace_operation (user_id);
CREATE INDEX idx_workspace_operation_undoes ON workspace_operation (undoes);

CREATE TABLE activity_event (
    id text NOT NULL CONSTRAINT activity_event_pk PRIMARY KEY,
    project_id text NOT NULL CONSTRAINT activity_event_project_id_fk REFERENCES project (id) ON DELETE CASCADE,
    workspace_id text,
    user_id text CONSTRAINT activity_event_user_id_fk REFERENCES "user" (id) ON DELETE SET NULL,
    actor text NOT NULL,
    type text NOT NULL,
    snapshot_id text,
    message text,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT activity_event_actor_known CHECK (actor = ANY (ARRAY['cli', 'web', 'system']))
);
CREATE INDEX idx_activity_event_project ON activity_event (project_id, created_at, id);
CREATE INDEX idx_activity_event_user ON activity_event (user_id);

CREATE TABLE project_env_var (
    id text NOT NULL CONSTRAINT project_env_var_pk PRIMARY KEY,
    project_id text NOT NULL CONSTRAINT project_env_var_project_id_fk REFERENCES project (id) ON DELETE CASCADE,
    key text NOT NULL,
    sealed text NOT NULL,
    is_secret boolean NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT project_env_var_key_plain CHECK (key ~ '^[A-Za-z_][A-Za-z0-9_]*$')
);
CREATE UNIQUE INDEX idx_project_env_var_key ON project_env_var (project_id, key);

CREATE TABLE pack (
    id text NOT NULL CONSTRAINT pack_pk PRIMARY KEY,
    account_id text NOT NULL,
    bytes bigint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pack_bytes_not_negative CHECK (bytes >= 0)
);
CREATE INDEX idx_pack_account ON pack (account_id, bytes);

CREATE TABLE blob (
    account_id text NOT NULL,
    sha256 text NOT NULL,
    size bigint NOT NULL,
    codec text NOT NULL,
    pack_id text NOT NULL CONSTRAINT blob_pack_id_fk REFERENCES pack (id) ON DELETE RESTRICT,
    start bigint NOT NULL,
    length bigint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    used_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT blob_pk PRIMARY KEY (account_id, sha256),
    CONSTRAINT blob_sha256_hex CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    CONSTRAINT blob_sizes_not_negative CHECK (size >= 0 AND start >= 0 AND length >= 0),
    CONSTRAINT blob_codec_known CHECK (codec = ANY (ARRAY['raw', 'zstd']))
);
CREATE INDEX idx_blob_pack ON blob (pack_id);

CREATE TABLE tree (
    account_id text NOT NULL,
    hash text NOT NULL,
    listing bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT tree_pk PRIMARY KEY (account_id, hash),
    CONSTRAINT tree_hash_hex CHECK (hash ~ '^[0-9a-f]{64}$')
);

CREATE TABLE manifest (
    account_id text NOT NULL,
    hash text NOT NULL,
    dialect text NOT NULL,
    tree_hash text,
    bytes bigint NOT NULL,
    entries integer NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    used_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT manifest_pk PRIMARY KEY (account_id, hash),
    CONSTRAINT manifest_hash_hex CHECK (hash ~ '^[0-9a-f]{64}$'),
    CONSTRAINT manifest_dialect_known CHECK (dialect = ANY (ARRAY['typed', 'untyped', 'raw'])),
    CONSTRAINT manifest_tree_or_raw CHECK (tree_hash IS NOT NULL OR dialect = 'raw'),
    CONSTRAINT manifest_sizes_not_negative CHECK (bytes >= 0 AND entries >= 0)
);

CREATE TABLE project_storage (
    account_id text NOT NULL CONSTRAINT project_storage_pk PRIMARY KEY,
    blobs bigint NOT NULL DEFAULT 0,
    blob_bytes bigint NOT NULL DEFAULT 0,
    manifests bigint NOT NULL DEFAULT 0,
    manifest_bytes bigint NOT NULL DEFAULT 0,
    CONSTRAINT project_storage_not_negative
        CHECK (blobs >= 0 AND blob_bytes >= 0 AND manifests >= 0 AND manifest_bytes >= 0)
);
"""

DOWN = """
ALTER TABLE project DROP CONSTRAINT project_last_snapshot_fk, DROP CONSTRAINT project_main_workspace_fk;
ALTER TABLE snapshot DROP CONSTRAINT snapshot_workspace_fk;
DROP TABLE project_storage, manifest, tree, blob, pack, project_env_var, activity_event, workspace_operation, workspace,
    snapshot_parent, snapshot, project;
"""


def upgrade() -> None:
    """Apply the migration."""
    run_script(UP)


def downgrade() -> None:
    """Revert it."""
    run_script(DOWN)
