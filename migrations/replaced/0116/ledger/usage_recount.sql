-- Count the calls of an account that finished on a UTC day anew, and its week from its days. Locks the account. Idempotent.
CREATE OR REPLACE FUNCTION usage_recount(p_account text, p_day timestamptz) RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    v_day timestamptz := date_trunc('day', p_day, 'UTC');
    v_week timestamptz := date_trunc('week', p_day, 'UTC');
BEGIN
    PERFORM FROM credit_account a WHERE a.id = p_account FOR UPDATE;
    DELETE FROM usage_rollup r WHERE r.account_id = p_account
        AND (r.grain IN ('hour', 'day') AND r.bucket >= v_day AND r.bucket < v_day + interval '24 hours'
            OR r.grain = 'week' AND r.bucket = v_week);
    INSERT INTO usage_rollup (
        account_id, grain, bucket, user_id, model, agent_id, key_id, error, calls, failed, input_tokens, cache_write_tokens,
        cache_read_tokens, output_tokens, reasoning_tokens, cost, credits, latency_ms, latency_max, ttft_ms, ttft_calls, latency_hist
    )
    SELECT p_account, g.grain, date_trunc(g.grain, c.finished_at, 'UTC'), c.user_id, c.model, c.agent_id, c.key_id, c.error,
        count(*) FILTER (WHERE c.error = ''), count(*) FILTER (WHERE c.error <> ''), sum(c.input_tokens), sum(c.cache_write_tokens),
        sum(c.cache_read_tokens), sum(c.output_tokens), sum(c.reasoning_tokens), sum(c.cost), sum(c.credits),
        coalesce(sum(c.latency_ms), 0), coalesce(max(c.latency_ms), 0), coalesce(sum(c.ttft_ms), 0), count(c.ttft_ms),
        ARRAY[
            count(*) FILTER (WHERE c.slot = 0)::int, count(*) FILTER (WHERE c.slot = 1)::int,
            count(*) FILTER (WHERE c.slot = 2)::int, count(*) FILTER (WHERE c.slot = 3)::int,
            count(*) FILTER (WHERE c.slot = 4)::int, count(*) FILTER (WHERE c.slot = 5)::int,
            count(*) FILTER (WHERE c.slot = 6)::int, count(*) FILTER (WHERE c.slot = 7)::int,
            count(*) FILTER (WHERE c.slot = 8)::int, count(*) FILTER (WHERE c.slot = 9)::int,
            count(*) FILTER (WHERE c.slot = 10)::int, count(*) FILTER (WHERE c.slot = 11)::int,
            count(*) FILTER (WHERE c.slot = 12)::int, count(*) FILTER (WHERE c.slot = 13)::int,
            count(*) FILTER (WHERE c.slot = 14)::int, count(*) FILTER (WHERE c.slot = 15)::int
        ]
    FROM (
        SELECT c.finished_at, c.user_id, m.model, coalesce(m.agent_id, '') AS agent_id, coalesce(m.key_id, '') AS key_id, '' AS error,
            c.uncached_input_tokens::bigint AS input_tokens, c.cache_write_tokens::bigint AS cache_write_tokens, c.cache_read_tokens::bigint AS cache_read_tokens,
            c.output_tokens::bigint AS output_tokens, c.reasoning_tokens::bigint AS reasoning_tokens, c.cost,
            CASE WHEN m.byok THEN 0 ELSE m.credits END::bigint AS credits, c.latency_ms, c.ttft_ms::bigint AS ttft_ms,
            width_bucket(c.latency_ms, '{50,100,200,350,500,750,1000,1500,2500,4000,6000,10000,20000,40000,80000}'::int[]) AS slot
        FROM message m JOIN gateway_call c ON c.message_id = m.id AND c.state = 'settled'
        WHERE coalesce(m.org_id, m.user_id) = p_account
            AND m.finished_at >= v_day AT TIME ZONE 'UTC' AND m.finished_at < (v_day + interval '24 hours') AT TIME ZONE 'UTC'
        UNION ALL
        SELECT c.finished_at, c.user_id, coalesce(c.model, c.requested_model),
            coalesce((SELECT a.agent_id FROM agent_run a WHERE a.id = c.run_id), ''), coalesce(c.key_id, ''),
            coalesce(nullif(left(c.error, 64), ''), 'failed'), 0, 0, 0, 0, 0, 0, 0, 0, NULL, NULL
        FROM gateway_call c
        WHERE c.account_id = p_account AND c.state = 'failed' AND c.finished_at >= v_day AND c.finished_at < v_day + interval '24 hours'
    ) c, (VALUES ('hour'), ('day')) g (grain)
    GROUP BY g.grain, 3, c.user_id, c.model, c.agent_id, c.key_id, c.error;
    INSERT INTO usage_rollup (
        account_id, grain, bucket, user_id, model, agent_id, key_id, error, calls, failed, input_tokens, cache_write_tokens,
        cache_read_tokens, output_tokens, reasoning_tokens, cost, credits, latency_ms, latency_max, ttft_ms, ttft_calls, latency_hist
    )
    SELECT p_account, 'week', v_week, r.user_id, r.model, r.agent_id, r.key_id, r.error, sum(r.calls), sum(r.failed),
        sum(r.input_tokens), sum(r.cache_write_tokens), sum(r.cache_read_tokens), sum(r.output_tokens), sum(r.reasoning_tokens),
        sum(r.cost), sum(r.credits), sum(r.latency_ms), max(r.latency_max), sum(r.ttft_ms), sum(r.ttft_calls), ARRAY[
            sum(r.latency_hist[1]), sum(r.latency_hist[2]), sum(r.latency_hist[3]), sum(r.latency_hist[4]),
            sum(r.latency_hist[5]), sum(r.latency_hist[6]), sum(r.latency_hist[7]), sum(r.latency_hist[8]),
            sum(r.latency_hist[9]), sum(r.latency_hist[10]), sum(r.latency_hist[11]), sum(r.latency_hist[12]),
            sum(r.latency_hist[13]), sum(r.latency_hist[14]), sum(r.latency_hist[15]), sum(r.latency_hist[16])
        ]
    FROM usage_rollup r
    WHERE r.account_id = p_account AND r.grain = 'day' AND r.bucket >= v_week AND r.bucket < v_week + interval '168 hours'
    GROUP BY r.user_id, r.model, r.agent_id, r.key_id, r.error;
END $$;
