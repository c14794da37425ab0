-- Functions for `bench/store.py`. Generated values come from hashes, so two fills of the same size differ only in their
-- timestamps. A few agents have most of the runs.

CREATE FUNCTION pg_temp.dice(p_seed bigint, p_kind int) RETURNS float8
LANGUAGE sql IMMUTABLE RETURN (hashint8extended(p_seed, p_kind) & 1073741823) / 1073741824.0;

CREATE FUNCTION pg_temp.agent_id(p_agent bigint) RETURNS text
LANGUAGE sql IMMUTABLE RETURN
    (ARRAY['careful', 'quick', 'patient', 'strict', 'gentle', 'silent', 'bold', 'plain', 'tidy', 'curious'])[1 + p_agent % 10]
    || '-' || (ARRAY['reviewer', 'planner', 'tester', 'writer', 'translator', 'researcher', 'refactorer', 'debugger',
    'designer', 'librarian', 'archivist', 'gardener', 'surveyor', 'proofreader', 'mechanic', 'navigator', 'auditor',
    'analyst', 'tutor', 'scribe'])[1 + p_agent / 10 % 20]
    || '-' || p_agent;

CREATE FUNCTION pg_temp.publisher_id(p_agent bigint, p_publishers int) RETURNS text
LANGUAGE sql IMMUTABLE RETURN 'publisher-' || p_agent % p_publishers;

-- one to eleven, six on average
CREATE FUNCTION pg_temp.versions(p_agent bigint) RETURNS int LANGUAGE sql IMMUTABLE RETURN 1 + p_agent % 11;


CREATE FUNCTION pg_temp.fill_agents(p_agents int, p_publishers int, p_users int, p_tokens text[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO "user" (id, email, name, "emailVerified", created_at, next_quota_reset)
    SELECT 'shop-' || n, 'shop-' || n || '@example.org', 'Shopper ' || n, now(), now() - interval '400 days',
        now() + interval '20 days'
    FROM generate_series(0, p_users - 1) n;
    INSERT INTO credit_account (id, user_id) SELECT 'shop-' || n, 'shop-' || n FROM generate_series(0, p_users - 1) n;
    INSERT INTO session ("sessionToken", "userId", expires, type, token_hint, name)
    SELECT t.token, 'shop-' || t.place - 1, now() + interval '300 days', 'pat', 'shop', 'Filled'
    FROM unnest(p_tokens) WITH ORDINALITY AS t (token, place);
    INSERT INTO publisher (id, name, verified, bio, user_id, created_by, created_at)
    SELECT 'publisher-' || n, 'Publisher ' || n, n % 10 = 0, 'Makes agents.', 'shop-' || n, 'shop-' || n,
        now() - interval '399 days'
    FROM generate_series(0, p_publishers - 1) n;
    INSERT INTO agent (publisher_id, id, name, model, created_at)
    SELECT pg_temp.publisher_id(a, p_publishers), pg_temp.agent_id(a), pg_temp.agent_id(a), '', now() - interval '398 days'
    FROM generate_series(0, p_agents - 1) a;
    INSERT INTO agent_config (publisher_id, id, version, data, created_at, updated_at)
    SELECT pg_temp.publisher_id(a, p_publishers), pg_temp.agent_id(a), '1.' || v || '.0',
        jsonb_build_object(
            'id', pg_temp.agent_id(a), 'publisher', pg_temp.publisher_id(a, p_publishers), 'version', '1.' || v || '.0',
            'displayName', initcap(translate(pg_temp.agent_id(a), '-', ' ')),
            'description', 'Reads what you give it, word ' || a % 997 || ', and says what it would change and why.',
            'model', (ARRAY['anthropic/claude-sonnet-4.5', 'openai/gpt-5', 'google/gemini-2.5-pro', 'x-ai/grok-4',
                'deepseek/deepseek-chat', 'qwen/qwen3-coder'])[1 + a % 6],
            'tags', jsonb_build_array('tag-' || a % 40, 'kind-' || a % 7),
            'toolNames', '["read_files", "code_search", "spawn_agents", "end_turn"]'::jsonb,
            'spawnableAgents', CASE WHEN a % 3 = 0 AND p_agents > 2 * p_publishers THEN (
                SELECT jsonb_agg(pg_temp.publisher_id(a, p_publishers) || '/'
                    || pg_temp.agent_id((a + s * p_publishers) % p_agents) || '@1.0.0')
                FROM generate_series(1, 2) s
            ) ELSE '[]' END,
            'mcpServers', '{}'::jsonb, 'inputSchema', '{}'::jsonb, 'outputMode', 'last_message',
            'includeMessageHistory', false, 'inheritParentSystemPrompt', false, 'stepPrompt', '',
            'systemPrompt', repeat('You read carefully and answer briefly. ', 20),
            'instructionsPrompt', repeat('Say what you found, then what you would do. ', 10)
        ),
        now() - (395 - v * 30) * interval '1 day', now() - (395 - v * 30) * interval '1 day'
    FROM generate_series(0, p_agents - 1) a, generate_series(0, pg_temp.versions(a) - 1) v;
    INSERT INTO agent_version (publisher_id, agent_id, version, published_by, credential, published_at)
    SELECT publisher_id, id, version, 'shop-' || split_part(publisher_id, '-', 2), 'cli', created_at FROM agent_config;
END $$;


CREATE FUNCTION pg_temp.fill_runs(p_first bigint, p_last bigint, p_agents int, p_publishers int, p_users int) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    CREATE TEMP TABLE store_run ON COMMIT DROP AS
    SELECT md5('store run ' || r)::uuid::text AS id, md5('store call ' || r)::uuid::text AS request_id,
        'shop-' || (p_users * pg_temp.dice(r, 1) ^ 2)::int % p_users AS user_id, a,
        '1.' || ((1 - pg_temp.dice(r, 2) ^ 3) * (pg_temp.versions(a) - 1))::int || '.0' AS version,
        now() - pg_temp.dice(r, 3) * interval '360 days' AS created_at,
        (1 + pg_temp.dice(r, 4) ^ 4 * 900) * interval '1 second' AS took,
        (CASE WHEN r % 12 = 0 THEN 'failed' WHEN r % 50 = 1 THEN 'cancelled' ELSE 'completed' END)::agent_run_status AS status,
        1 + (pg_temp.dice(r, 5) * 60)::int AS credits
    FROM (
        SELECT r, (p_agents * pg_temp.dice(r, 6) ^ 3)::bigint % p_agents AS a FROM generate_series(p_first, p_last) r
    ) chosen;
    INSERT INTO agent_run (id, user_id, agent_id, total_steps, direct_credits, total_credits, status, created_at, completed_at)
    SELECT id, user_id, pg_temp.publisher_id(a, p_publishers) || '/' || pg_temp.agent_id(a) || '@' || version,
        3, credits, credits, status, created_at, created_at + took
    FROM store_run;
    INSERT INTO gateway_call (
        request_id, account_id, user_id, run_id, door, provider, requested_model, model, state, usage_source, latency_ms,
        cost, micro_credits, credits, started_at, finished_at
    )
    SELECT request_id, user_id, user_id, id, 'codebuff', 'openai', 'openai/gpt-5', 'openai/gpt-5', 'settled', 'provider',
        1200, credits / 100.0, credits * 1000000, credits, created_at, created_at + interval '1 second'
    FROM store_run;
    DROP TABLE store_run;
END $$;
