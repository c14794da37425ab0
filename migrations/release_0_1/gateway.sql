-- Model calls, and what they tell the ledger.

CREATE TABLE gateway_call (
    request_id text NOT NULL,
    message_id text,
    account_id text NOT NULL,
    user_id text NOT NULL,
    run_id text,
    key_id text,
    door text NOT NULL,
    provider text,
    requested_model text NOT NULL,
    model text,
    state text NOT NULL,
    http_status int,
    error text,
    usage_source text,
    stream boolean NOT NULL DEFAULT false,
    client_gone boolean NOT NULL DEFAULT false,
    ttft_ms int,
    latency_ms int NOT NULL,
    price jsonb,
    uncached_input_tokens int NOT NULL DEFAULT 0,
    cache_write_tokens int NOT NULL DEFAULT 0,
    cache_read_tokens int NOT NULL DEFAULT 0,
    output_tokens int NOT NULL DEFAULT 0,
    reasoning_tokens int NOT NULL DEFAULT 0,
    cost numeric NOT NULL DEFAULT '0',
    micro_credits bigint NOT NULL DEFAULT 0,
    credits bigint NOT NULL DEFAULT 0,
    carry_credits bigint NOT NULL DEFAULT 0,
    started_at timestamptz NOT NULL,
    finished_at timestamptz NOT NULL,
    parts jsonb,
    raw_usage jsonb,
    flags text[],
    CONSTRAINT gateway_call_pk PRIMARY KEY (request_id),
    CONSTRAINT gateway_call_message_id_fk FOREIGN KEY (message_id) REFERENCES message (id) ON DELETE CASCADE,
    CONSTRAINT gateway_call_user_id_fk FOREIGN KEY (user_id) REFERENCES "user" (id) ON DELETE CASCADE,
    CONSTRAINT gateway_call_state_known CHECK (state IN ('settled', 'failed')),
    CONSTRAINT gateway_call_usage_source_known CHECK (usage_source IN ('provider', 'counted', 'estimated'))
);
CREATE INDEX idx_gateway_call_flagged ON gateway_call (finished_at) WHERE flags IS NOT NULL;
CREATE INDEX idx_gateway_call_message ON gateway_call (message_id);
CREATE INDEX idx_gateway_call_run ON gateway_call (run_id, started_at);
CREATE INDEX idx_gateway_call_user ON gateway_call (user_id, started_at);

-- What a call asks of the ledger, as models/ledger/holds.py sends it.
CREATE TYPE gateway_ask AS (
    token_hash text, request_id text, run_id text, require_run boolean, hold bigint, door text, model text,
    minimum bigint
);

-- The facts of one finished call, as models/ledger/holds.py sends them.
CREATE TYPE gateway_facts AS (
    request_id text, user_id text, org_id text, key_id text, run_id text, agent_id text, door text, message_id text,
    provider text, requested_model text, model text, usage_source text, uncached_input_tokens int,
    cache_write_tokens int, cache_read_tokens int, output_tokens int, reasoning_tokens int, cost numeric,
    micro_credits bigint, price jsonb, byok boolean, request jsonb, response jsonb, reasoning_text text,
    client_id text, client_request_id text, repo_url text, stream boolean, client_gone boolean, ttft_ms int,
    latency_ms int, latency_bucket int, http_status int, error text, started_at timestamptz, parts jsonb,
    raw_usage jsonb, flags text[]
);

-- Who pays mostly follows from who calls: without this PostgreSQL sorts all calls of a person to find the latest ten.
CREATE STATISTICS gateway_call_payer (dependencies) ON user_id, account_id FROM gateway_call;
