-- The usage of an organisation's calls that finished in p_from <= t < p_until, added up by whom, what and when. A bucket is the start
-- of an hour, day or week on the clock of p_zone. Cells are of all members (user_id '') and of each; members are a dimension of the
-- former only. Runs are counted by day. A call paid with the caller's own provider key costs no credits. The histogram has the buckets of models/ledger/latency.py.
CREATE OR REPLACE FUNCTION org_usage_cells(p_org text, p_zone text, p_from timestamptz, p_until timestamptz)
RETURNS TABLE (
    user_id text, dimension text, grain text, bucket timestamptz, key text, calls bigint, input_tokens bigint,
    cache_write_tokens bigint, cache_read_tokens bigint, output_tokens bigint, reasoning_tokens bigint, credits bigint,
    cost numeric, latency_ms bigint, histogram int[]
)
LANGUAGE sql STABLE AS $$
    SELECT s.user_id, d.dimension, g.grain, g.bucket, d.key, count(*),
        sum(greatest(m.input_tokens - coalesce(m.cache_creation_input_tokens, 0) - m.cache_read_input_tokens, 0)::bigint)::bigint,
        sum(coalesce(m.cache_creation_input_tokens, 0)::bigint)::bigint, sum(m.cache_read_input_tokens::bigint)::bigint,
        sum(m.output_tokens::bigint)::bigint, sum(coalesce(m.reasoning_tokens, 0)::bigint)::bigint,
        sum(CASE WHEN m.byok THEN 0 ELSE m.credits END::bigint)::bigint, sum(m.cost), sum(coalesce(m.latency_ms, 0)::bigint)::bigint,
        ARRAY[
            count(*) FILTER (WHERE l.slot = 0)::int, count(*) FILTER (WHERE l.slot = 1)::int,
            count(*) FILTER (WHERE l.slot = 2)::int, count(*) FILTER (WHERE l.slot = 3)::int,
            count(*) FILTER (WHERE l.slot = 4)::int, count(*) FILTER (WHERE l.slot = 5)::int,
            count(*) FILTER (WHERE l.slot = 6)::int, count(*) FILTER (WHERE l.slot = 7)::int,
            count(*) FILTER (WHERE l.slot = 8)::int, count(*) FILTER (WHERE l.slot = 9)::int,
            count(*) FILTER (WHERE l.slot = 10)::int, count(*) FILTER (WHERE l.slot = 11)::int,
            count(*) FILTER (WHERE l.slot = 12)::int, count(*) FILTER (WHERE l.slot = 13)::int,
            count(*) FILTER (WHERE l.slot = 14)::int, count(*) FILTER (WHERE l.slot = 15)::int
        ]
    FROM message m
    CROSS JOIN LATERAL (
        SELECT width_bucket(
            coalesce(m.latency_ms, 0),
            '{50,100,200,350,500,750,1000,1500,2500,4000,6000,10000,20000,40000,80000}'::int[]
        ) AS slot
    ) l
    CROSS JOIN LATERAL (VALUES (''), (coalesce(m.user_id, '-'))) s (user_id)
    CROSS JOIN LATERAL (
        VALUES ('hour', date_trunc('hour', m.finished_at AT TIME ZONE 'UTC', p_zone)),
            ('day', date_trunc('day', m.finished_at AT TIME ZONE 'UTC', p_zone)),
            ('week', date_trunc('week', m.finished_at AT TIME ZONE 'UTC', p_zone))
    ) g (grain, bucket)
    CROSS JOIN LATERAL (
        VALUES ('member', coalesce(m.user_id, '')), ('key', coalesce(m.key_id, '')), ('team', coalesce(m.team_id, '')),
            ('repository', coalesce(m.repo_url, '')), ('model', m.model),
            ('agent', coalesce(regexp_replace(m.agent_id, '^([^/@]+/[^/@]+)@[^/@]+$', '\1'), '')),
            ('version', coalesce(m.agent_id, '')), ('run', coalesce(m.client_request_id, ''))
    ) d (dimension, key)
    WHERE m.org_id = p_org AND m.finished_at >= p_from AT TIME ZONE 'UTC' AND m.finished_at < p_until AT TIME ZONE 'UTC'
        AND (d.dimension <> 'run' OR g.grain = 'day')
        AND (s.user_id = '' OR d.dimension <> 'member')
    GROUP BY s.user_id, d.dimension, g.grain, g.bucket, d.key;
$$;
