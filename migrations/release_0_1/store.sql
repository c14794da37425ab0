-- Publishers, agents and their versions, and the figures of their runs.

CREATE TABLE publisher (
    id text NOT NULL,
    name text NOT NULL,
    email text,
    verified boolean NOT NULL DEFAULT false,
    bio text,
    avatar_url text,
    user_id text,
    org_id text,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT publisher_pk PRIMARY KEY (id),
    CONSTRAINT publisher_created_by_fk FOREIGN KEY (created_by) REFERENCES "user" (id),
    CONSTRAINT publisher_org_id_fk FOREIGN KEY (org_id) REFERENCES org (id),
    CONSTRAINT publisher_user_id_fk FOREIGN KEY (user_id) REFERENCES "user" (id),
    CONSTRAINT publisher_single_owner CHECK (
        user_id IS NOT NULL AND org_id IS NULL OR user_id IS NULL AND org_id IS NOT NULL
    )
);
CREATE INDEX idx_publisher_created_by ON publisher (created_by);
CREATE INDEX idx_publisher_org ON publisher (org_id);
CREATE INDEX idx_publisher_user ON publisher (user_id);

CREATE TABLE agent_config (
    id text NOT NULL,
    version text NOT NULL,
    publisher_id text NOT NULL,
    major int GENERATED ALWAYS AS (split_part(version, '.', 1)::int) STORED,
    minor int GENERATED ALWAYS AS (split_part(version, '.', 2)::int) STORED,
    patch int GENERATED ALWAYS AS (split_part(version, '.', 3)::int) STORED,
    data jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT agent_config_pk PRIMARY KEY (id, version, publisher_id),
    CONSTRAINT agent_config_publisher_id_fk FOREIGN KEY (publisher_id) REFERENCES publisher (id)
);
CREATE INDEX idx_agent_config_publisher ON agent_config (publisher_id);

CREATE TABLE agent (
    publisher_id text NOT NULL,
    id text NOT NULL,
    name text NOT NULL,
    description text,
    tags text[] NOT NULL DEFAULT '{}',
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
    runs bigint NOT NULL DEFAULT 0,
    failed bigint NOT NULL DEFAULT 0,
    cancelled bigint NOT NULL DEFAULT 0,
    credits bigint NOT NULL DEFAULT 0,
    weekly_runs bigint NOT NULL DEFAULT 0,
    weekly_credits bigint NOT NULL DEFAULT 0,
    unique_users bigint NOT NULL DEFAULT 0,
    durations bigint[] NOT NULL DEFAULT array_fill(0, ARRAY[16]),
    last_used timestamptz,
    own_runs bigint NOT NULL DEFAULT 0,
    bytes bigint NOT NULL DEFAULT 0,
    CONSTRAINT agent_pk PRIMARY KEY (publisher_id, id),
    CONSTRAINT agent_publisher_id_fkey FOREIGN KEY (publisher_id) REFERENCES publisher (id)
);
CREATE INDEX idx_agent_by_age ON agent (published_at DESC, publisher_id, id);
CREATE INDEX idx_agent_by_cost ON agent (weekly_credits DESC, publisher_id, id);
CREATE INDEX idx_agent_by_name ON agent (lower(name), publisher_id, id);
CREATE INDEX idx_agent_by_usage ON agent (runs DESC, publisher_id, id);
CREATE INDEX idx_agent_by_users ON agent (unique_users DESC, publisher_id, id);
CREATE INDEX idx_agent_id ON agent (id);
CREATE INDEX idx_agent_search ON agent USING gin (search);
CREATE INDEX idx_agent_tags ON agent USING gin (tags);
CREATE INDEX idx_agent_vendor ON agent (split_part(model, '/', 1));

CREATE TABLE agent_version (
    publisher_id text NOT NULL,
    agent_id text NOT NULL,
    version text NOT NULL,
    published_by text,
    credential text NOT NULL,
    published_at timestamptz NOT NULL DEFAULT now(),
    yanked_at timestamptz,
    yanked_by text,
    yanked_reason text,
    runs bigint NOT NULL DEFAULT 0,
    failed bigint NOT NULL DEFAULT 0,
    cancelled bigint NOT NULL DEFAULT 0,
    credits bigint NOT NULL DEFAULT 0,
    weekly_runs bigint NOT NULL DEFAULT 0,
    weekly_credits bigint NOT NULL DEFAULT 0,
    unique_users bigint NOT NULL DEFAULT 0,
    durations bigint[] NOT NULL DEFAULT array_fill(0, ARRAY[16]),
    last_used timestamptz,
    own_runs bigint NOT NULL DEFAULT 0,
    CONSTRAINT agent_version_pk PRIMARY KEY (publisher_id, agent_id, version),
    CONSTRAINT agent_version_agent_fk FOREIGN KEY (publisher_id, agent_id)
        REFERENCES agent (publisher_id, id) ON DELETE CASCADE,
    CONSTRAINT agent_version_config_fk FOREIGN KEY (agent_id, version, publisher_id)
        REFERENCES agent_config (id, version, publisher_id) ON DELETE CASCADE,
    CONSTRAINT agent_version_published_by_fkey FOREIGN KEY (published_by)
        REFERENCES "user" (id) ON DELETE SET NULL,
    CONSTRAINT agent_version_yanked_by_fkey FOREIGN KEY (yanked_by) REFERENCES "user" (id) ON DELETE SET NULL,
    CONSTRAINT agent_version_credential_known CHECK (credential IN ('web', 'cli', 'pat', 'import')),
    CONSTRAINT agent_version_yank_has_reason CHECK ((yanked_at IS NULL) = (yanked_reason IS NULL))
) WITH (fillfactor = 80);
CREATE INDEX idx_agent_version_published ON agent_version (published_at);

-- What each run was counted for. The reference waits for the end of the transaction, so that the rows go with the runs
-- and not one by one before them.
CREATE TABLE agent_run_bill (
    run_id text NOT NULL,
    publisher_id text NOT NULL,
    agent_id text NOT NULL,
    version text NOT NULL,
    user_id text,
    status text NOT NULL,
    credits bigint NOT NULL,
    duration_ms bigint NOT NULL,
    created_at timestamptz NOT NULL,
    own boolean NOT NULL DEFAULT false,
    CONSTRAINT agent_run_bill_pk PRIMARY KEY (run_id),
    CONSTRAINT agent_run_bill_run_id_fk FOREIGN KEY (run_id)
        REFERENCES agent_run (id) DEFERRABLE INITIALLY DEFERRED
) WITH (fillfactor = 90);
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
    own_runs bigint NOT NULL DEFAULT 0,
    CONSTRAINT agent_day_pk PRIMARY KEY (publisher_id, agent_id, day, version)
) WITH (fillfactor = 80);

CREATE TABLE agent_user (
    publisher_id text NOT NULL,
    agent_id text NOT NULL,
    version text NOT NULL,
    user_id text NOT NULL,
    runs bigint NOT NULL,
    CONSTRAINT agent_user_pk PRIMARY KEY (publisher_id, agent_id, version, user_id)
) WITH (fillfactor = 80);

CREATE TABLE store_window (
    id boolean NOT NULL DEFAULT true,
    since timestamptz NOT NULL,
    CONSTRAINT store_window_pk PRIMARY KEY (id),
    CONSTRAINT store_window_single CHECK (id)
);

CREATE TABLE store_stamp (
    id boolean NOT NULL DEFAULT true,
    stamp bigint NOT NULL,
    CONSTRAINT store_stamp_pk PRIMARY KEY (id),
    CONSTRAINT store_stamp_single CHECK (id)
);

CREATE TABLE takedown (
    publisher_id text NOT NULL,
    agent_id text NOT NULL DEFAULT '',
    version text NOT NULL DEFAULT '',
    reason text NOT NULL,
    actor text NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT takedown_pk PRIMARY KEY (publisher_id, agent_id, version),
    CONSTRAINT takedown_publisher_id_publisher_id_fk FOREIGN KEY (publisher_id)
        REFERENCES publisher (id) ON DELETE CASCADE,
    CONSTRAINT takedown_version_has_agent CHECK (version = '' OR agent_id <> '')
);

CREATE TABLE remote_picture (
    address text NOT NULL,
    picture text,
    problem text,
    tries int NOT NULL DEFAULT 1,
    tried_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT remote_picture_pk PRIMARY KEY (address)
);

INSERT INTO store_window (since) VALUES (now() - interval '7 days');
INSERT INTO store_stamp (stamp) VALUES (0);

CREATE SEQUENCE store_figures;
