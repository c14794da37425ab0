"""The store: a row per agent and per version beside the compatible tables, and the figures of their runs.

Revision: 0009
Revises: 0008
"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

FIGURES = """
    runs bigint NOT NULL DEFAULT 0,
    failed bigint NOT NULL DEFAULT 0,
    cancelled bigint NOT NULL DEFAULT 0,
    credits bigint NOT NULL DEFAULT 0,
    weekly_runs bigint NOT NULL DEFAULT 0,
    weekly_credits bigint NOT NULL DEFAULT 0,
    unique_users bigint NOT NULL DEFAULT 0,
    durations bigint[] NOT NULL DEFAULT array_fill(0, ARRAY[16]),
    last_used timestamptz
"""


def upgrade() -> None:
    op.execute(
        f"""
CREATE TABLE agent (
    publisher_id text NOT NULL REFERENCES publisher (id),
    id text NOT NULL,
    name text NOT NULL,
    description text,
    tags text[] NOT NULL DEFAULT '{{}}',
    model text NOT NULL,
    latest_version text,
    versions int NOT NULL DEFAULT 0,
    readme text,
    readme_updated_at timestamptz,
    deprecated_at timestamptz,
    deprecated_reason text,
    successor text,
    search tsvector NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now(),
    published_at timestamptz NOT NULL DEFAULT now(),
    {FIGURES},
    CONSTRAINT agent_pk PRIMARY KEY (publisher_id, id)
);
CREATE INDEX idx_agent_search ON agent USING gin (search);
CREATE INDEX idx_agent_tags ON agent USING gin (tags);
CREATE INDEX idx_agent_by_cost ON agent (weekly_credits DESC, publisher_id, id);
CREATE INDEX idx_agent_by_usage ON agent (runs DESC, publisher_id, id);
CREATE INDEX idx_agent_by_users ON agent (unique_users DESC, publisher_id, id);
CREATE INDEX idx_agent_by_age ON agent (published_at DESC, publisher_id, id);
CREATE INDEX idx_agent_by_name ON agent (lower(name), publisher_id, id);

CREATE TABLE agent_version (
    publisher_id text NOT NULL,
    agent_id text NOT NULL,
    version text NOT NULL,
    published_by text REFERENCES "user" (id) ON DELETE SET NULL,
    credential text NOT NULL,
    published_at timestamptz NOT NULL DEFAULT now(),
    yanked_at timestamptz,
    yanked_by text REFERENCES "user" (id) ON DELETE SET NULL,
    yanked_reason text,
    {FIGURES},
    CONSTRAINT agent_version_pk PRIMARY KEY (publisher_id, agent_id, version),
    CONSTRAINT agent_version_config_fk FOREIGN KEY (agent_id, version, publisher_id)
        REFERENCES agent_config (id, version, publisher_id) ON DELETE CASCADE,
    CONSTRAINT agent_version_agent_fk FOREIGN KEY (publisher_id, agent_id)
        REFERENCES agent (publisher_id, id) ON DELETE CASCADE,
    CONSTRAINT agent_version_credential_known CHECK (credential IN ('web', 'cli', 'pat', 'import')),
    CONSTRAINT agent_version_yank_has_reason CHECK ((yanked_at IS NULL) = (yanked_reason IS NULL))
);
CREATE INDEX idx_agent_version_published ON agent_version (published_at);

CREATE TABLE agent_run_bill (
    run_id text NOT NULL REFERENCES agent_run (id) ON DELETE CASCADE,
    publisher_id text NOT NULL,
    agent_id text NOT NULL,
    version text NOT NULL,
    user_id text,
    status text NOT NULL,
    credits bigint NOT NULL,
    duration_ms bigint NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT agent_run_bill_pk PRIMARY KEY (run_id)
);
CREATE INDEX idx_agent_run_bill_agent ON agent_run_bill (publisher_id, agent_id, created_at);
CREATE INDEX idx_agent_run_bill_created ON agent_run_bill (created_at);

CREATE TABLE agent_day (
    publisher_id text NOT NULL,
    agent_id text NOT NULL,
    day date NOT NULL,
    version text NOT NULL,
    runs bigint NOT NULL DEFAULT 0,
    failed bigint NOT NULL DEFAULT 0,
    cancelled bigint NOT NULL DEFAULT 0,
    credits bigint NOT NULL DEFAULT 0,
    CONSTRAINT agent_day_pk PRIMARY KEY (publisher_id, agent_id, day, version)
);

CREATE TABLE agent_user (
    publisher_id text NOT NULL,
    agent_id text NOT NULL,
    version text NOT NULL,
    user_id text NOT NULL,
    runs bigint NOT NULL,
    CONSTRAINT agent_user_pk PRIMARY KEY (publisher_id, agent_id, version, user_id)
);

CREATE TABLE store_window (
    id boolean NOT NULL DEFAULT true,
    since timestamptz NOT NULL,
    CONSTRAINT store_window_pk PRIMARY KEY (id),
    CONSTRAINT store_window_single CHECK (id)
);
INSERT INTO store_window (since) VALUES (now() - interval '7 days');
"""
    )


def downgrade() -> None:
    for table in ("store_window", "agent_user", "agent_day", "agent_run_bill", "agent_version", "agent"):
        op.execute(f"DROP TABLE {table}")
