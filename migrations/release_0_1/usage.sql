-- What was billed, and its sums by hour and day.

CREATE TABLE message (
    id text NOT NULL,
    finished_at timestamp NOT NULL,
    client_id text,
    client_request_id text,
    model text NOT NULL,
    agent_id text,
    request jsonb,
    last_message jsonb GENERATED ALWAYS AS (request -> -1) STORED,
    reasoning_text text,
    response jsonb NOT NULL,
    input_tokens int NOT NULL DEFAULT 0,
    cache_creation_input_tokens int,
    cache_read_input_tokens int NOT NULL DEFAULT 0,
    reasoning_tokens int,
    output_tokens int NOT NULL,
    cost numeric(100,20) NOT NULL,
    credits int NOT NULL,
    byok boolean NOT NULL DEFAULT false,
    latency_ms int,
    user_id text,
    org_id text,
    repo_url text,
    CONSTRAINT message_pk PRIMARY KEY (id),
    CONSTRAINT message_org_id_fk FOREIGN KEY (org_id) REFERENCES org (id) ON DELETE CASCADE,
    CONSTRAINT message_user_id_fk FOREIGN KEY (user_id) REFERENCES "user" (id) ON DELETE CASCADE
);
-- bodies still kept, oldest first, to drop them
CREATE INDEX idx_message_bodies ON message (finished_at)
    WHERE request IS NOT NULL OR reasoning_text <> '' OR response <> 'null';
-- the export of a person
CREATE INDEX idx_message_user_finished ON message (user_id, finished_at);
CREATE INDEX message_finished_at_user_id_idx ON message (finished_at, user_id);
CREATE INDEX message_org_id_finished_at_idx ON message (org_id, finished_at);
CREATE INDEX message_org_id_idx ON message (org_id);
CREATE INDEX message_user_id_idx ON message (user_id);

-- Updated by every call without a change to an index: room for the new version on the same page.
CREATE TABLE usage_rollup (
    account_id text NOT NULL,
    grain text NOT NULL,
    bucket timestamptz NOT NULL,
    user_id text NOT NULL,
    model text NOT NULL,
    agent_id text NOT NULL DEFAULT '',
    calls int NOT NULL DEFAULT 0,
    input_tokens bigint NOT NULL DEFAULT 0,
    cache_write_tokens bigint NOT NULL DEFAULT 0,
    cache_read_tokens bigint NOT NULL DEFAULT 0,
    output_tokens bigint NOT NULL DEFAULT 0,
    reasoning_tokens bigint NOT NULL DEFAULT 0,
    cost numeric NOT NULL DEFAULT '0',
    credits bigint NOT NULL DEFAULT 0,
    latency_ms bigint NOT NULL DEFAULT 0,
    ttft_ms bigint NOT NULL DEFAULT 0,
    ttft_calls int NOT NULL DEFAULT 0,
    latency_hist int[] NOT NULL DEFAULT array_fill(0, ARRAY[16]),
    CONSTRAINT usage_rollup_pk PRIMARY KEY (account_id, grain, bucket, user_id, model, agent_id),
    CONSTRAINT usage_rollup_account_id_fk FOREIGN KEY (account_id)
        REFERENCES credit_account (id) ON DELETE CASCADE,
    CONSTRAINT usage_rollup_grain_known CHECK (grain IN ('hour', 'day')),
    CONSTRAINT usage_rollup_latency_hist_buckets CHECK (cardinality(latency_hist) = 16)
) WITH (fillfactor = 70);
