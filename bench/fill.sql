-- Functions for `bench/fill.py`, which drops them at the end. Generated values come from hashes, so two fills of the same
-- size differ only in their timestamps.

CREATE UNLOGGED TABLE fill_account (
    number int PRIMARY KEY, id text NOT NULL, buyer_id text NOT NULL, org_id text, carry bigint NOT NULL DEFAULT 0,
    hash bytea NOT NULL DEFAULT decode(repeat('00', 32), 'hex')
);

-- Who calls for an account, and with what: most accounts have one of these, an organisation three for each member.
CREATE UNLOGGED TABLE fill_caller (
    account int, number int, user_id text NOT NULL, key_id text NOT NULL, team_id text, repo_url text, paid_by text,
    PRIMARY KEY (account, number)
);

CREATE UNLOGGED TABLE fill_call (
    n bigint, run bigint, account int, caller int, run_id text, message_id text, request_id text, model text, agent_id text,
    finished_at timestamptz, uncached int, cache_write int, cache_read int, output int, reasoning int,
    latency_ms int, latency_bucket int, ttft_ms int, cost numeric, micro bigint, carried bigint, spent numeric
);


CREATE FUNCTION fill_dice(p_seed bigint, p_kind int) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN hashint8extended(p_seed, p_kind) & 1073741823;


CREATE FUNCTION fill_model(p_number bigint) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN (ARRAY['anthropic/claude-sonnet-4.5', 'openai/gpt-5-mini', 'openai/gpt-5',
    'google/gemini-2.5-flash', 'google/gemini-2.5-pro', 'deepseek/deepseek-chat', 'x-ai/grok-4', 'qwen/qwen3-coder',
    'mistralai/mistral-large'])[1 + p_number % 9];


CREATE FUNCTION fill_agent(p_number bigint) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN (ARRAY['stoa/code-reviewer@2.4.1', 'stoa/file-picker@1.3.0',
    'stoa/test-writer@1.0.3', 'stoa/release-notes@0.9.2', 'acme/planner@1.0.0', 'base'])[1 + p_number % 6];


-- The id of a key that nobody has the token of.
CREATE FUNCTION fill_key(p_kind text, p_number int) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN encode(sha256(('fill-' || p_kind || '-' || p_number)::bytea), 'hex');


-- The hash of an entry in the account's chain, which goes on from p_start; triggers are asleep.
CREATE FUNCTION fill_link(p_hash bytea, p_start bytea, e credit_entry) RETURNS bytea
LANGUAGE sql STABLE AS $$ SELECT credit_entry_hash(coalesce(p_hash, p_start), e) $$;
CREATE AGGREGATE fill_chain(bytea, credit_entry) (SFUNC = fill_link, STYPE = bytea);


-- Users with an account, a session and the first key of each; account 1 becomes an organisation's (fill_org.sql).
CREATE FUNCTION fill_accounts(p_accounts int, p_tokens text[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO fill_account (number, id, buyer_id)
    SELECT n, 'fill-' || lpad(n::text, 5, '0'), 'fill-' || lpad(n::text, 5, '0') FROM generate_series(0, p_accounts - 1) n;
    INSERT INTO "user" (id, email, name, "emailVerified", created_at, next_quota_reset)
    SELECT id, id || '@example.org', 'Account ' || number, now() - interval '400 days', now() - interval '400 days',
        now() + interval '20 days'
    FROM fill_account;
    INSERT INTO credit_account (id, user_id, created_at) SELECT id, id, now() - interval '400 days' FROM fill_account;
    INSERT INTO session ("sessionToken", "userId", expires, type, token_hint, name)
    SELECT t.token, a.id, now() + interval '300 days', 'pat', 'fill', 'Filled'
    FROM unnest(p_tokens) WITH ORDINALITY AS t (token, place) JOIN fill_account a ON a.number = t.place - 1;
    INSERT INTO session ("sessionToken", "userId", expires, type, token_hint, name)
    SELECT fill_key('rare', 0), id, now() + interval '300 days', 'pat', 'rare', 'Rarely used' FROM fill_account WHERE number = 0;
    INSERT INTO fill_caller (account, number, user_id, key_id)
    SELECT t.place - 1, 0, a.id, t.token
    FROM unnest(p_tokens) WITH ORDINALITY AS t (token, place) JOIN fill_account a ON a.number = t.place - 1;
    INSERT INTO fill_caller (account, number, user_id, key_id) SELECT 0, 1, id, fill_key('rare', 0) FROM fill_account WHERE number = 0;
END $$;


-- Creates runs p_first to p_last - 1 of a month with their calls, and p_extra calls without a run.
CREATE FUNCTION fill_month(
    p_month int, p_months int, p_first bigint, p_last bigint, p_accounts int, p_share int, p_org_share int,
    p_extra int
) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_midnight timestamptz := date_trunc('day', now(), 'UTC') + interval '1 day';
    v_start timestamptz := v_midnight - (p_months - p_month) * interval '30 days';
    -- the calls of a run span half a minute, within their month
    v_length interval := least(v_start + interval '30 days', now()) - v_start - interval '90 seconds';
    v_runs bigint := greatest(p_last - p_first, 1);
    v_entry bigint;
    v_members int := (SELECT count(*) / 3 FROM fill_caller WHERE account = 1);
BEGIN
    TRUNCATE fill_call;
    INSERT INTO fill_call
    WITH facts AS (
        SELECT c.run * 10 + c.call AS n, c.run, c.call,
            CASE WHEN fill_dice(c.run / 4, 1) % 100 < p_share THEN 0
                WHEN fill_dice(c.run / 4, 1) % 100 < p_share + p_org_share AND p_accounts > 1 THEN 1
                ELSE (p_accounts * power((fill_dice(c.run / 4, 2) % 1000003)::float / 1000003, 2))::int % p_accounts END AS account,
            v_start + v_length * ((c.run - p_first)::float / v_runs) + c.call * interval '2.7 seconds' AS finished_at,
            fill_dice(c.run * 10 + c.call, 3) AS a, fill_dice(c.run * 10 + c.call, 4) AS b,
            fill_dice(c.run * 10 + c.call, 5) AS c, fill_dice(c.run, 6) AS d
        FROM (
            SELECT run, call FROM generate_series(p_first, p_last - 1) run, generate_series(0, 9) call
            UNION ALL
            SELECT p_last, call FROM generate_series(0, p_extra - 1) call
        ) c
    ),
    used AS (
        SELECT *, 200 + (a % 9000)::int AS uncached, CASE WHEN b % 4 = 0 THEN (c % 4000)::int ELSE 0 END AS cache_write,
            CASE WHEN b % 3 = 0 THEN (a % 20000)::int ELSE 0 END AS cache_read, 20 + (b % 1500)::int AS output,
            30 + ((20 + b % 1500) * 8 + a % 700)::int AS latency,
            -- a fifth of the calls costs less than half a credit
            CASE WHEN c % 5 = 0 THEN 0.01 ELSE 1 END::numeric AS scale,
            -- the member, and one of the three ways to call, are the same for a run and those it spawned
            CASE WHEN account = 0 AND n % 5003 = 9 THEN 1
                WHEN account = 1 THEN fill_dice(run / 4, 8) % 3
                    + 3 * ((v_members * power((fill_dice(run / 4, 7) % 1000003)::float / 1000003, 2))::int % v_members)
                ELSE 0 END::int AS caller
        FROM facts
    ),
    priced AS (
        SELECT *, scale * (uncached * 3 + cache_write * 3.75 + cache_read * 0.3 + output * 15) / 1000000 AS cost FROM used
    ),
    billed AS (
        SELECT *, greatest(trunc(cost * 105500000), 1)::bigint AS micro FROM priced
    ),
    carries AS (
        SELECT b.*, f.carry,
            sum(CASE WHEN b.micro < 500000 THEN b.micro ELSE 0 END) OVER (PARTITION BY b.account ORDER BY b.n) AS fractions
        FROM billed b JOIN fill_account f ON f.number = b.account
    ),
    charged AS (
        SELECT *, CASE WHEN micro < 500000
            THEN div(carry + fractions, 1000000) - div(carry + fractions - micro, 1000000) ELSE 0 END::bigint AS carried
        FROM carries
    )
    SELECT n, run, account, caller, CASE WHEN run = p_last OR n % 20 = 7 THEN NULL ELSE md5('run' || run)::uuid::text END,
        'gen-' || md5('message' || n), md5('request' || n)::uuid::text,
        CASE WHEN n % 5003 = 11 THEN 'cohere/command-a' ELSE fill_model(CASE WHEN call % 5 = 4 THEN d + 1 ELSE least(d % 9, d % 11, (d / 99) % 9) END) END,
        CASE WHEN run = p_last OR n % 20 = 7 THEN NULL ELSE fill_agent(run % 4 + d % 3) END,
        finished_at, uncached, cache_write, cache_read, output, CASE WHEN b % 5 = 0 THEN output / 2 ELSE 0 END,
        latency, width_bucket(latency, {edges}), CASE WHEN c % 2 = 0 THEN 30 + (a % 700)::int END,
        cost, micro, carried,
        sum(carried + (micro + 500000) / 1000000) OVER (PARTITION BY account ORDER BY n)
    FROM charged
    ORDER BY n;
    CREATE INDEX IF NOT EXISTS fill_call_run ON fill_call (run);
    ANALYZE fill_call;

    UPDATE fill_account a SET carry = (a.carry + f.fractions) % 1000000
    FROM (SELECT account, sum(micro) AS fractions FROM fill_call WHERE micro < 500000 GROUP BY 1) f
    WHERE f.account = a.number;
    UPDATE credit_account c SET carry_micro = a.carry FROM fill_account a WHERE a.id = c.id AND a.carry <> c.carry_micro;

    -- A grant at the start of each month covers that month exactly, so that the next month spends the next grant. The
    -- last grant leaves a balance.
    v_entry := coalesce((SELECT max(id) FROM credit_entry), 0);
    CREATE TEMP TABLE fill_grant ON COMMIT DROP AS
    SELECT a.number, a.id AS account_id, a.buyer_id, a.org_id, format('fill-%s-%s', a.id, p_month) AS operation_id,
        coalesce(s.spent, 0)::bigint + CASE WHEN p_month = p_months - 1 THEN 1000000000 ELSE 0 END AS amount,
        coalesce(s.spent, 0)::bigint AS spent
    FROM fill_account a LEFT JOIN (SELECT account, max(spent) AS spent FROM fill_call GROUP BY 1) s ON s.account = a.number;
    DELETE FROM fill_grant WHERE amount = 0;
    INSERT INTO credit_ledger (operation_id, user_id, org_id, principal, balance, type, description, priority, created_at)
    SELECT operation_id, buyer_id, org_id, amount, amount - spent, 'purchase', 'Made up by make fill', 80, v_start FROM fill_grant;
    WITH entries AS (
        SELECT v_entry + number + 1 AS id, account_id, operation_id, 'grant' AS kind, amount, amount AS grant_balance,
            amount AS balance, operation_id AS cause, NULL AS message_id, v_start AS created_at
        FROM fill_grant
        UNION ALL
        SELECT v_entry + p_accounts + 1 + c.n - p_first * 10, g.account_id, g.operation_id, 'debit',
            -(c.carried + (c.micro + 500000) / 1000000), g.amount - c.spent, g.amount - c.spent, c.request_id, c.message_id,
            c.finished_at
        FROM fill_call c JOIN fill_grant g ON g.number = c.account
        WHERE c.carried + (c.micro + 500000) / 1000000 > 0
    ),
    made AS (
        INSERT INTO credit_entry
            (id, account_id, operation_id, kind, amount, grant_balance_after, balance_after, cause, message_id, created_at, hash)
            OVERRIDING SYSTEM VALUE
        SELECT e.*, fill_chain(a.hash, ROW(e.*, NULL::bytea)::credit_entry) OVER (PARTITION BY e.account_id ORDER BY e.id)
        FROM entries e JOIN fill_account a ON a.id = e.account_id
        RETURNING id, account_id, hash
    )
    UPDATE fill_account a SET hash = m.hash
    FROM (SELECT DISTINCT ON (account_id) account_id, hash FROM made ORDER BY account_id, id DESC) m
    WHERE m.account_id = a.id;
    DROP TABLE fill_grant;

    INSERT INTO message (
        id, finished_at, client_request_id, model, agent_id, request, response, reasoning_text, input_tokens,
        cache_creation_input_tokens, cache_read_input_tokens, reasoning_tokens, output_tokens, cost, credits, byok, latency_ms,
        user_id, org_id, key_id, team_id, repo_url, paid_by
    )
    SELECT c.message_id, c.finished_at, c.run_id, c.model, c.agent_id,
        jsonb_build_array(jsonb_build_object('role', 'user', 'content', CASE WHEN c.n % 200 = 0
            THEN (SELECT string_agg(md5((c.n + i)::text), ' ') FROM generate_series(1, 250) i)
            ELSE 'Why does ' || md5(c.n::text) || ' fail on the second try?' END)),
        to_jsonb('Because ' || md5((c.n + 1)::text) || ' was kept from the first. Clear it before.'),
        CASE WHEN c.reasoning > 0 THEN 'The first try left something.' END,
        c.uncached + c.cache_write + c.cache_read, nullif(c.cache_write, 0), c.cache_read, nullif(c.reasoning, 0), c.output,
        c.cost, c.carried + (c.micro + 500000) / 1000000, false, c.latency_ms,
        k.user_id, a.org_id, k.key_id, k.team_id, k.repo_url, k.paid_by
    FROM fill_call c JOIN fill_account a ON a.number = c.account
    JOIN fill_caller k ON k.account = c.account AND k.number = c.caller;

    INSERT INTO gateway_call (
        request_id, message_id, account_id, user_id, key_id, run_id, door, provider, requested_model, model, state, usage_source,
        stream, ttft_ms, latency_ms, price, uncached_input_tokens, cache_write_tokens, cache_read_tokens, output_tokens,
        reasoning_tokens, cost, micro_credits, credits, carry_credits, started_at, finished_at
    )
    SELECT c.request_id, c.message_id, a.id, k.user_id, k.key_id, c.run_id, CASE WHEN c.run_id IS NULL THEN 'openai' ELSE 'codebuff' END,
        split_part(c.model, '/', 1), c.model, c.model, 'settled', CASE WHEN c.n % 50 = 0 THEN 'counted' ELSE 'provider' END,
        c.ttft_ms IS NOT NULL, c.ttft_ms, c.latency_ms, '{"input": "3", "output": "15"}'::jsonb, c.uncached, c.cache_write,
        c.cache_read, c.output, c.reasoning, c.cost, c.micro, c.carried + (c.micro + 500000) / 1000000, c.carried,
        c.finished_at - c.latency_ms * interval '1 ms', c.finished_at
    FROM fill_call c JOIN fill_account a ON a.number = c.account
    JOIN fill_caller k ON k.account = c.account AND k.number = c.caller
    UNION ALL
    SELECT md5('failed' || c.n)::uuid::text, NULL, a.id, k.user_id, k.key_id, c.run_id, 'codebuff', split_part(c.model, '/', 1), c.model,
        c.model, 'failed', NULL, false, NULL, 90, NULL, 0, 0, 0, 0, 0, 0, 0, 0, 0, c.finished_at, c.finished_at
    FROM fill_call c JOIN fill_account a ON a.number = c.account
    JOIN fill_caller k ON k.account = c.account AND k.number = c.caller
    WHERE c.n % 50 = 3;

    -- of every four runs of an account, the second is a child of the first
    INSERT INTO agent_run (
        id, user_id, org_id, repo_url, paid_by, agent_id, ancestor_run_ids, total_steps, direct_credits, total_credits,
        settled_credits, status, created_at, completed_at
    )
    SELECT md5('run' || c.run)::uuid::text, min(k.user_id), min(a.org_id), min(k.repo_url), min(k.paid_by), fill_agent(c.run % 4 + fill_dice(c.run, 6) % 3),
        CASE WHEN c.run % 4 = 1 AND c.run > p_first THEN ARRAY[md5('run' || c.run - 1)::uuid::text] END,
        3, sum(c.carried + (c.micro + 500000) / 1000000), sum(c.carried + (c.micro + 500000) / 1000000),
        coalesce(sum(c.carried + (c.micro + 500000) / 1000000) FILTER (WHERE c.run_id IS NOT NULL), 0)
            + CASE WHEN c.run % 4 = 0 THEN coalesce((
                SELECT sum(s.carried + (s.micro + 500000) / 1000000) FROM fill_call s
                WHERE s.run = c.run + 1 AND s.run < p_last AND s.run_id IS NOT NULL
            ), 0) ELSE 0 END,
        CASE WHEN c.run > p_last - 20 AND p_month = p_months - 1 THEN 'running'
            WHEN c.run % 17 = 0 THEN 'failed' ELSE 'completed' END::agent_run_status,
        min(c.finished_at) - interval '3 seconds',
        CASE WHEN c.run > p_last - 20 AND p_month = p_months - 1 THEN NULL ELSE max(c.finished_at) + interval '1 second' END
    FROM fill_call c JOIN fill_account a ON a.number = c.account
    JOIN fill_caller k ON k.account = c.account AND k.number = c.caller
    WHERE c.run < p_last
    GROUP BY c.run;
    INSERT INTO agent_step (id, agent_run_id, step_number, credits, message_id, status, created_at, completed_at)
    SELECT md5('step' || c.n)::uuid::text, md5('run' || c.run)::uuid::text, 1 + (c.n % 10 - 2) / 3, 0, c.message_id, 'completed',
        c.finished_at - interval '6 seconds', c.finished_at
    FROM fill_call c WHERE c.n % 10 IN (2, 5, 8) AND c.run < p_last;

    INSERT INTO usage_rollup (
        account_id, grain, bucket, user_id, model, agent_id, key_id, calls, input_tokens, cache_write_tokens, cache_read_tokens,
        output_tokens, reasoning_tokens, cost, credits, latency_ms, ttft_ms, ttft_calls, latency_hist, latency_max, provider, type
    )
    SELECT a.id, s.grain, s.bucket, s.user_id, s.model, s.agent_id, s.key_id, s.calls, s.input, s.cache_write, s.cache_read, s.output,
        s.reasoning, s.cost, s.credits, s.latency_ms, s.ttft_ms, s.ttft_calls, s.hist, s.latency_max, split_part(s.model, '/', 1), 'chat'
    FROM (
        SELECT c.account, g.grain, date_trunc(g.grain, c.finished_at, 'UTC') AS bucket, c.model, coalesce(c.agent_id, '') AS agent_id,
            k.user_id, k.key_id, count(*) AS calls, sum(c.uncached) AS input, sum(c.cache_write) AS cache_write, sum(c.cache_read) AS cache_read,
            sum(c.output) AS output, sum(c.reasoning) AS reasoning, sum(c.cost) AS cost,
            sum(c.carried + (c.micro + 500000) / 1000000) AS credits, sum(c.latency_ms) AS latency_ms,
            coalesce(sum(c.ttft_ms), 0) AS ttft_ms, count(c.ttft_ms) AS ttft_calls,
            {histogram} AS hist, max(c.latency_ms) AS latency_max
        FROM fill_call c JOIN fill_caller k ON k.account = c.account AND k.number = c.caller,
            (VALUES ('hour'), ('day')) AS g (grain)
        GROUP BY 1, 2, 3, 4, 5, 6, 7
    ) s JOIN fill_account a ON a.number = s.account;
    PERFORM setval(pg_get_serial_sequence('credit_entry', 'id'), (SELECT max(id) FROM credit_entry));
END $$;


-- The rollups by week, as a week may lie in two months, and those of failed calls.
CREATE FUNCTION fill_weeks() RETURNS void
LANGUAGE sql AS $$
    INSERT INTO usage_rollup (
        account_id, grain, bucket, user_id, model, agent_id, key_id, calls, input_tokens, cache_write_tokens, cache_read_tokens,
        output_tokens, reasoning_tokens, cost, credits, latency_ms, ttft_ms, ttft_calls, latency_hist, latency_max, provider, type
    )
    SELECT account_id, 'week', date_trunc('week', bucket, 'UTC'), user_id, model, agent_id, key_id, sum(calls), sum(input_tokens),
        sum(cache_write_tokens), sum(cache_read_tokens), sum(output_tokens), sum(reasoning_tokens), sum(cost), sum(credits),
        sum(latency_ms), sum(ttft_ms), sum(ttft_calls), ARRAY[
            sum(latency_hist[1]), sum(latency_hist[2]), sum(latency_hist[3]), sum(latency_hist[4]), sum(latency_hist[5]), sum(latency_hist[6]),
            sum(latency_hist[7]), sum(latency_hist[8]), sum(latency_hist[9]), sum(latency_hist[10]), sum(latency_hist[11]), sum(latency_hist[12]),
            sum(latency_hist[13]), sum(latency_hist[14]), sum(latency_hist[15]), sum(latency_hist[16])
        ], max(latency_max), provider, type
    FROM usage_rollup
    WHERE grain = 'day' AND error = ''
    GROUP BY account_id, date_trunc('week', bucket, 'UTC'), user_id, model, agent_id, key_id, provider, type;
    INSERT INTO usage_rollup (account_id, grain, bucket, user_id, model, agent_id, key_id, error, failed, provider, type)
    SELECT c.account_id, g.grain, date_trunc(g.grain, c.finished_at, 'UTC'), c.user_id, c.model,
        coalesce(r.agent_id, ''), c.key_id, coalesce(c.error, 'failed'), count(*), c.provider, usage_type(c.door)
    FROM gateway_call c JOIN fill_account a ON a.id = c.account_id
    -- a subquery would read all runs for each call, because their indexes are disabled
    LEFT JOIN agent_run r ON r.id = c.run_id, (VALUES ('hour'), ('day'), ('week')) g (grain)
    WHERE c.state = 'failed'
    GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 10, 11;
    -- runs have their settled credits already
    INSERT INTO run_credit_mark (id, counted_until) VALUES (1, now() AT TIME ZONE 'UTC')
    ON CONFLICT (id) DO UPDATE SET counted_until = excluded.counted_until;
$$;


CREATE FUNCTION fill_forget() RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    DROP TABLE fill_call, fill_caller, fill_account;
    DROP FUNCTION fill_org(int);
    DROP FUNCTION fill_budgets();
    DROP FUNCTION fill_key(text, int);
    DROP FUNCTION fill_accounts(int, text[]);
    DROP FUNCTION fill_month(int, int, bigint, bigint, int, int, int, int);
    DROP FUNCTION fill_model(bigint);
    DROP FUNCTION fill_agent(bigint);
    DROP FUNCTION fill_dice(bigint, int);
    DROP FUNCTION fill_weeks();
    DROP AGGREGATE fill_chain(bytea, credit_entry);
    DROP FUNCTION fill_link(bytea, bytea, credit_entry);
    DROP FUNCTION fill_forget();
END $$;
