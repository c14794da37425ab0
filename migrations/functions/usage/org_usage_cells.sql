-- The usage of an organisation's calls that finished in p_from <= t < p_until, added up by whom, what and when. A bucket is the start
-- of an hour, day or week on the clock of p_zone. Cells are of all members (user_id '') and of each; members are a dimension of the
-- former only. Runs are counted by day. `failed` calls are not among `calls`. The histogram has the buckets of models/ledger/latency.py.
CREATE OR REPLACE FUNCTION org_usage_cells(p_org text, p_zone text, p_from timestamptz, p_until timestamptz)
RETURNS TABLE (
    user_id text, dimension text, grain text, bucket timestamptz, key text, calls bigint, failed bigint, input_tokens bigint,
    cache_write_tokens bigint, cache_read_tokens bigint, output_tokens bigint, reasoning_tokens bigint, credits bigint,
    cost numeric, latency_ms bigint, latency_max int, histogram int[]
)
LANGUAGE sql STABLE AS $$
    SELECT s.user_id, d.dimension, g.grain, g.bucket, d.key, sum(m.calls)::bigint, sum(m.failed)::bigint, sum(m.input_tokens)::bigint,
        sum(m.cache_write_tokens)::bigint, sum(m.cache_read_tokens)::bigint, sum(m.output_tokens)::bigint,
        sum(m.reasoning_tokens)::bigint, sum(m.credits)::bigint, sum(m.cost), sum(m.latency_ms)::bigint, max(m.latency_ms)::int,
        ARRAY[
            count(*) FILTER (WHERE m.slot = 0)::int, count(*) FILTER (WHERE m.slot = 1)::int,
            count(*) FILTER (WHERE m.slot = 2)::int, count(*) FILTER (WHERE m.slot = 3)::int,
            count(*) FILTER (WHERE m.slot = 4)::int, count(*) FILTER (WHERE m.slot = 5)::int,
            count(*) FILTER (WHERE m.slot = 6)::int, count(*) FILTER (WHERE m.slot = 7)::int,
            count(*) FILTER (WHERE m.slot = 8)::int, count(*) FILTER (WHERE m.slot = 9)::int,
            count(*) FILTER (WHERE m.slot = 10)::int, count(*) FILTER (WHERE m.slot = 11)::int,
            count(*) FILTER (WHERE m.slot = 12)::int, count(*) FILTER (WHERE m.slot = 13)::int,
            count(*) FILTER (WHERE m.slot = 14)::int, count(*) FILTER (WHERE m.slot = 15)::int
        ]
    FROM usage_calls(p_org, p_from, p_until) m
    CROSS JOIN LATERAL (VALUES (''), (coalesce(nullif(m.member, ''), '-'))) s (user_id)
    CROSS JOIN LATERAL (
        VALUES ('hour', date_trunc('hour', m.finished_at, p_zone)), ('day', date_trunc('day', m.finished_at, p_zone)),
            ('week', date_trunc('week', m.finished_at, p_zone))
    ) g (grain, bucket)
    CROSS JOIN LATERAL (
        VALUES ('member', m.member), ('key', m.key), ('team', m.team), ('repository', m.repository), ('model', m.model),
            ('agent', m.agent), ('version', m.version), ('run', m.run), ('error', m.error)
    ) d (dimension, key)
    WHERE (d.dimension <> 'run' OR g.grain = 'day') AND (s.user_id = '' OR d.dimension <> 'member')
    GROUP BY s.user_id, d.dimension, g.grain, g.bucket, d.key;
$$;
