-- Compute the statistics of a newly published version of a counted agent, from its bills alone: reading all runs of the
-- agent would let anyone who ran a version before it existed make publishing slow. The caller holds the lock of the agent's
-- row.
CREATE OR REPLACE FUNCTION store_tell_version(p_publisher text, p_agent text, p_version text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_since timestamptz := store_since();
    v_first timestamp;
BEGIN
    SELECT min(d.day) INTO v_first FROM agent_day d
    WHERE d.publisher_id = p_publisher AND d.agent_id = p_agent AND d.version = p_version;
    UPDATE agent_version a SET
        runs = t.runs, failed = t.failed, cancelled = t.cancelled, own_runs = t.own_runs, credits = t.credits,
        weekly_runs = t.weekly_runs, weekly_credits = t.weekly_credits, unique_users = t.users,
        durations = t.durations, last_used = t.last_used
    FROM (
        SELECT
            count(*) FILTER (WHERE b.kind = 'completed') AS runs,
            count(*) FILTER (WHERE b.kind = 'failed') AS failed,
            count(*) FILTER (WHERE b.kind = 'cancelled') AS cancelled,
            count(*) FILTER (WHERE b.kind = 'own') AS own_runs,
            coalesce(sum(b.credits) FILTER (WHERE b.kind = 'completed'), 0) AS credits,
            count(*) FILTER (WHERE b.kind = 'completed' AND b.created_at >= v_since) AS weekly_runs,
            coalesce(sum(b.credits) FILTER (WHERE b.kind = 'completed' AND b.created_at >= v_since), 0)
                AS weekly_credits,
            count(DISTINCT b.user_id) FILTER (WHERE b.kind = 'completed') AS users,
            coalesce(
                store_histogram(store_bucket(b.duration_ms), 1) FILTER (WHERE b.kind = 'completed'),
                array_fill(0::bigint, ARRAY[16])
            ) AS durations,
            max(b.created_at) FILTER (WHERE b.kind = 'completed') AS last_used
        FROM (SELECT b.*, store_kind(b.status, b.own) AS kind FROM agent_run_bill b) b
        WHERE b.publisher_id = p_publisher AND b.agent_id = p_agent AND b.version = p_version
            AND b.created_at >= v_first AT TIME ZONE 'UTC'
    ) t
    WHERE a.publisher_id = p_publisher AND a.agent_id = p_agent AND a.version = p_version;
END $$;
