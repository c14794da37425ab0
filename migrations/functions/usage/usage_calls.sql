-- The calls of an account that finished in p_from <= t < p_until, as they are counted: settled ones, with an empty error, and
-- failed ones, which cost nothing. A call paid with the caller's own provider key costs no credits. A failed call belongs to no team
-- or repository. Inlined into the query that selects from it, so its conditions may use the indexes, and provider and type are looked
-- up only if they are selected.
CREATE OR REPLACE FUNCTION usage_calls(p_account text, p_from timestamptz, p_until timestamptz)
RETURNS TABLE (
    finished_at timestamptz, member text, key text, team text, repository text, model text, version text, agent text, run text, error text,
    calls bigint, failed bigint, input_tokens bigint, cache_write_tokens bigint, cache_read_tokens bigint, output_tokens bigint,
    reasoning_tokens bigint, credits bigint, cost numeric, latency_ms bigint, slot int, provider text, type text
)
LANGUAGE sql STABLE AS $$
    SELECT m.finished_at AT TIME ZONE 'UTC', coalesce(m.user_id, ''), coalesce(m.key_id, ''), coalesce(m.team_id, ''),
        coalesce(m.repo_url, ''), m.model, coalesce(m.agent_id, ''),
        coalesce(regexp_replace(m.agent_id, '^([^/@]+/[^/@]+)@[^/@]+$', '\1'), ''), coalesce(m.client_request_id, ''), '', 1::bigint, 0::bigint,
        greatest(m.input_tokens - coalesce(m.cache_creation_input_tokens, 0) - m.cache_read_input_tokens, 0)::bigint,
        coalesce(m.cache_creation_input_tokens, 0)::bigint, m.cache_read_input_tokens::bigint, m.output_tokens::bigint,
        coalesce(m.reasoning_tokens, 0)::bigint, CASE WHEN m.byok THEN 0 ELSE m.credits END::bigint, m.cost,
        coalesce(m.latency_ms, 0)::bigint,
        width_bucket(
            coalesce(m.latency_ms, 0),
            '{50,100,200,350,500,750,1000,1500,2500,4000,6000,10000,20000,40000,80000}'::int[]
        ),
        coalesce((SELECT g.provider FROM gateway_call g WHERE g.message_id = m.id LIMIT 1), ''),
        coalesce((SELECT usage_type(g.door) FROM gateway_call g WHERE g.message_id = m.id LIMIT 1), '')
    FROM message m
    WHERE coalesce(m.org_id, m.user_id) = p_account AND m.finished_at >= p_from AT TIME ZONE 'UTC' AND m.finished_at < p_until AT TIME ZONE 'UTC'
    UNION ALL
    SELECT c.finished_at, c.user_id, coalesce(c.key_id, ''), '', '', coalesce(c.model, c.requested_model), coalesce(a.agent_id, ''),
        coalesce(regexp_replace(a.agent_id, '^([^/@]+/[^/@]+)@[^/@]+$', '\1'), ''), coalesce(c.run_id, ''),
        coalesce(nullif(left(c.error, 64), ''), 'failed'), 0::bigint, 1::bigint, 0::bigint, 0::bigint, 0::bigint, 0::bigint, 0::bigint, 0::bigint,
        0::numeric, 0::bigint, NULL::int, coalesce(c.provider, ''), usage_type(c.door)
    FROM gateway_call c LEFT JOIN agent_run a ON a.id = c.run_id
    WHERE c.account_id = p_account AND c.state = 'failed' AND c.finished_at >= p_from AND c.finished_at < p_until;
$$;
