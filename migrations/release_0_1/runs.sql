-- Runs of agents and their steps.

CREATE TYPE agent_run_status AS ENUM ('running', 'completed', 'failed', 'cancelled');
CREATE TYPE agent_step_status AS ENUM ('running', 'completed', 'skipped');

CREATE TABLE agent_run (
    id text NOT NULL DEFAULT gen_random_uuid()::text,
    user_id text,
    agent_id text NOT NULL,
    publisher_id text GENERATED ALWAYS AS (
        CASE WHEN agent_id ~ '^[^/@]+/[^/@]+@[^/@]+$' THEN split_part(agent_id, '/', 1) END
    ) STORED,
    agent_name text GENERATED ALWAYS AS (
        CASE WHEN agent_id ~ '^[^/@]+/[^/@]+@[^/@]+$' THEN split_part(split_part(agent_id, '/', 2), '@', 1) ELSE agent_id END
    ) STORED,
    agent_version text GENERATED ALWAYS AS (
        CASE WHEN agent_id ~ '^[^/@]+/[^/@]+@[^/@]+$' THEN split_part(agent_id, '@', 2) END
    ) STORED,
    ancestor_run_ids text[],
    root_run_id text GENERATED ALWAYS AS (coalesce(ancestor_run_ids[1], id)) STORED,
    parent_run_id text GENERATED ALWAYS AS (ancestor_run_ids[array_length(ancestor_run_ids, 1)]) STORED,
    depth int GENERATED ALWAYS AS (coalesce(array_length(ancestor_run_ids, 1), 1)) STORED,
    duration_ms int GENERATED ALWAYS AS (
        CASE WHEN completed_at IS NOT NULL
        THEN greatest(least(extract(epoch FROM completed_at - created_at) * 1000, 2147483647), '-2147483648'::int)::int END
    ) STORED,
    total_steps int DEFAULT 0,
    direct_credits numeric DEFAULT '0',
    total_credits numeric DEFAULT '0',
    status agent_run_status NOT NULL DEFAULT 'running',
    error_message text,
    created_at timestamptz NOT NULL DEFAULT now(),
    completed_at timestamptz,
    CONSTRAINT agent_run_pk PRIMARY KEY (id),
    CONSTRAINT agent_run_user_id_fk FOREIGN KEY (user_id) REFERENCES "user" (id) ON DELETE CASCADE
);
CREATE INDEX idx_agent_run_agent_id ON agent_run (agent_id, created_at);
CREATE INDEX idx_agent_run_ancestors_gin ON agent_run USING gin (ancestor_run_ids);
CREATE INDEX idx_agent_run_completed_publisher_agent ON agent_run (publisher_id, agent_name)
    WHERE status = 'completed';
CREATE INDEX idx_agent_run_completed_recent ON agent_run (created_at, publisher_id, agent_name)
    WHERE status = 'completed';
CREATE INDEX idx_agent_run_completed_user ON agent_run (user_id) WHERE status = 'completed';
CREATE INDEX idx_agent_run_completed_version ON agent_run (publisher_id, agent_name, agent_version, created_at)
    WHERE status = 'completed';
CREATE INDEX idx_agent_run_parent ON agent_run (parent_run_id);
CREATE INDEX idx_agent_run_publisher ON agent_run (publisher_id, created_at);
CREATE INDEX idx_agent_run_root ON agent_run (root_run_id);
CREATE INDEX idx_agent_run_status ON agent_run (status) WHERE status = 'running';
-- an agent that enters the store is counted by its runs: the completed ones have their index, these the others
CREATE INDEX idx_agent_run_unsuccessful ON agent_run (publisher_id, agent_name)
    WHERE status IN ('failed', 'cancelled');
-- from one agent of a person to the next, for a part of a name that is looked for
CREATE INDEX idx_agent_run_user_agent ON agent_run (user_id, agent_id, created_at);
CREATE INDEX idx_agent_run_user_id ON agent_run (user_id, created_at);
CREATE INDEX idx_agent_run_user_state ON agent_run (user_id, status, created_at);

CREATE TABLE agent_step (
    id text NOT NULL DEFAULT gen_random_uuid()::text,
    agent_run_id text NOT NULL,
    step_number int NOT NULL,
    duration_ms int GENERATED ALWAYS AS (
        CASE WHEN completed_at IS NOT NULL
        THEN greatest(least(extract(epoch FROM completed_at - created_at) * 1000, 2147483647), '-2147483648'::int)::int END
    ) STORED,
    credits numeric NOT NULL DEFAULT '0',
    child_run_ids text[],
    spawned_count int GENERATED ALWAYS AS (array_length(child_run_ids, 1)) STORED,
    message_id text,
    status agent_step_status NOT NULL DEFAULT 'completed',
    error_message text,
    created_at timestamptz NOT NULL DEFAULT now(),
    completed_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT agent_step_pk PRIMARY KEY (id),
    CONSTRAINT agent_step_agent_run_id_fk FOREIGN KEY (agent_run_id) REFERENCES agent_run (id) ON DELETE CASCADE
);
CREATE INDEX idx_agent_step_children_gin ON agent_step USING gin (child_run_ids);
CREATE INDEX idx_agent_step_run_id ON agent_step (agent_run_id);
CREATE UNIQUE INDEX unique_step_number_per_run ON agent_step (agent_run_id, step_number);

CREATE TABLE agent_run_volume (
    run_id text NOT NULL,
    steps bigint NOT NULL,
    bytes bigint NOT NULL,
    CONSTRAINT agent_run_volume_pk PRIMARY KEY (run_id),
    CONSTRAINT agent_run_volume_run_id_fkey FOREIGN KEY (run_id) REFERENCES agent_run (id) ON DELETE CASCADE
) WITH (fillfactor = 80);
