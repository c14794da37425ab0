"""Deployments, sites, their settings, credentials of providers, resources.

Revision: 0144
Revises: 0132
"""

from migrations.replacing import run_script

revision = "0144"
down_revision = "0132"
branch_labels = None
depends_on = None

UP = """
CREATE TABLE provider_credential (
    id text NOT NULL CONSTRAINT provider_credential_pk PRIMARY KEY,
    account_id text NOT NULL CONSTRAINT provider_credential_account_id_fk
        REFERENCES credit_account (id) ON DELETE CASCADE,
    user_id text CONSTRAINT provider_credential_user_id_fk REFERENCES "user" (id) ON DELETE SET NULL,
    provider text NOT NULL,
    sealed text NOT NULL,
    last_four text NOT NULL,
    metadata jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT provider_credential_provider_known CHECK (provider = ANY (ARRAY['railway', 'cloudflare'])),
    CONSTRAINT provider_credential_last_four_short CHECK (length(last_four) <= 4),
    CONSTRAINT provider_credential_metadata_object CHECK (metadata IS NULL OR jsonb_typeof(metadata) = 'object')
);
CREATE UNIQUE INDEX idx_provider_credential_account ON provider_credential (account_id, provider);
CREATE INDEX idx_provider_credential_user ON provider_credential (user_id);

CREATE TABLE infrastructure_resource (
    id text NOT NULL CONSTRAINT infrastructure_resource_pk PRIMARY KEY,
    project_id text NOT NULL CONSTRAINT infrastructure_resource_project_id_fk
        REFERENCES project (id) ON DELETE CASCADE,
    type text NOT NULL,
    provider text NOT NULL,
    provider_resource_id text,
    name text NOT NULL,
    sealed text,
    status text NOT NULL,
    error text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT infrastructure_resource_type_known CHECK (type = ANY (ARRAY['compute', 'compute:edge',
        'database:postgres', 'database:mysql', 'database:redis', 'storage:blob'])),
    CONSTRAINT infrastructure_resource_provider_known CHECK (provider = ANY (ARRAY['railway', 'cloudflare'])),
    CONSTRAINT infrastructure_resource_status_known CHECK (status = ANY (ARRAY['pending', 'provisioning',
        'ready', 'error', 'deleted']))
);
CREATE INDEX idx_infrastructure_resource_project ON infrastructure_resource (project_id, type);

CREATE TABLE deployment_setting (
    workspace_id text NOT NULL CONSTRAINT deployment_setting_pk PRIMARY KEY,
    project_id text NOT NULL CONSTRAINT deployment_setting_project_id_fk REFERENCES project (id) ON DELETE CASCADE,
    adapter text NOT NULL,
    auto_deploy boolean NOT NULL,
    runtime_override text,
    build_command text,
    start_command text,
    folder text,
    webhook_url text,
    webhook_sealed text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT deployment_setting_adapter_known CHECK (adapter = ANY (ARRAY['static', 'cloudflare', 'webhook'])),
    CONSTRAINT deployment_setting_runtime_known CHECK (runtime_override IS NULL
        OR runtime_override = ANY (ARRAY['node', 'python', 'go', 'static'])),
    CONSTRAINT deployment_setting_workspace_fk FOREIGN KEY (project_id, workspace_id)
        REFERENCES workspace (project_id, id) ON DELETE CASCADE
);
CREATE INDEX idx_deployment_setting_project ON deployment_setting (project_id);

CREATE TABLE deployment (
    id text NOT NULL CONSTRAINT deployment_pk PRIMARY KEY,
    project_id text NOT NULL CONSTRAINT deployment_project_id_fk REFERENCES project (id) ON DELETE CASCADE,
    workspace_id text NOT NULL,
    snapshot_id text NOT NULL,
    user_id text CONSTRAINT deployment_user_id_fk REFERENCES "user" (id) ON DELETE SET NULL,
    adapter text NOT NULL,
    trigger text NOT NULL,
    state text NOT NULL,
    tree_hash text,
    external_id text,
    url text,
    error text,
    message text,
    idempotency_key text,
    detail jsonb NOT NULL DEFAULT '{}',
    started_at timestamptz NOT NULL DEFAULT now(),
    released_at timestamptz,
    completed_at timestamptz,
    CONSTRAINT deployment_state_known CHECK (state = ANY (ARRAY['queued', 'building', 'releasing', 'checking',
        'live', 'failed', 'rolled_back', 'stopped'])),
    CONSTRAINT deployment_trigger_known CHECK (trigger = ANY (ARRAY['manual', 'chat', 'auto'])),
    CONSTRAINT deployment_adapter_known CHECK (adapter = ANY (ARRAY['static', 'cloudflare', 'webhook'])),
    CONSTRAINT deployment_completed_when_done CHECK (
        (state = ANY (ARRAY['queued', 'building', 'releasing', 'checking'])) = (completed_at IS NULL)),
    CONSTRAINT deployment_live_released CHECK (state <> 'live' OR released_at IS NOT NULL),
    CONSTRAINT deployment_workspace_fk FOREIGN KEY (project_id, workspace_id)
        REFERENCES workspace (project_id, id) ON DELETE CASCADE,
    CONSTRAINT deployment_snapshot_fk FOREIGN KEY (project_id, snapshot_id)
        REFERENCES snapshot (project_id, id) ON DELETE CASCADE
);
CREATE INDEX idx_deployment_workspace ON deployment (workspace_id, started_at, id);
CREATE INDEX idx_deployment_project ON deployment (project_id, started_at, id);
CREATE INDEX idx_deployment_state ON deployment (state, started_at);
CREATE INDEX idx_deployment_user ON deployment (user_id);
CREATE UNIQUE INDEX idx_deployment_key ON deployment (project_id, idempotency_key) WHERE idempotency_key IS NOT NULL;

CREATE TABLE deployment_log_line (
    deployment_id text NOT NULL CONSTRAINT deployment_log_line_deployment_id_fk
        REFERENCES deployment (id) ON DELETE CASCADE,
    line integer NOT NULL,
    step text NOT NULL,
    stream text NOT NULL,
    content text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT deployment_log_line_pk PRIMARY KEY (deployment_id, line),
    CONSTRAINT deployment_log_line_line_positive CHECK (line > 0),
    CONSTRAINT deployment_log_line_step_known CHECK (step = ANY (ARRAY['install', 'build', 'deploy'])),
    CONSTRAINT deployment_log_line_stream_known CHECK (stream = ANY (ARRAY['stdout', 'stderr']))
);

CREATE TABLE deployed_site (
    workspace_id text NOT NULL CONSTRAINT deployed_site_pk PRIMARY KEY,
    project_id text NOT NULL CONSTRAINT deployed_site_project_id_fk REFERENCES project (id) ON DELETE CASCADE,
    name text NOT NULL,
    deployment_id text CONSTRAINT deployed_site_deployment_id_fk REFERENCES deployment (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT deployed_site_name_label CHECK (name ~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$'),
    CONSTRAINT deployed_site_workspace_fk FOREIGN KEY (project_id, workspace_id)
        REFERENCES workspace (project_id, id) ON DELETE CASCADE
);
CREATE UNIQUE INDEX idx_deployed_site_name ON deployed_site (name);
CREATE INDEX idx_deployed_site_project ON deployed_site (project_id);
CREATE INDEX idx_deployed_site_deployment ON deployed_site (deployment_id);
"""

DOWN = """
DROP TABLE deployed_site;
DROP TABLE deployment_log_line;
DROP TABLE deployment;
DROP TABLE deployment_setting;
DROP TABLE infrastructure_resource;
DROP TABLE provider_credential;
"""


def upgrade() -> None:
    """Apply the migration."""
    run_script(UP)


def downgrade() -> None:
    """Revert it."""
    run_script(DOWN)
