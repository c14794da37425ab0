-- Recompute the statistics of an agent and its versions from agent_run_bill. The caller holds the lock of the agent's row.
CREATE OR REPLACE FUNCTION store_tell(p_publisher text, p_agent text, p_since timestamptz) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM agent_user u WHERE u.publisher_id = p_publisher AND u.agent_id = p_agent;
    DELETE FROM agent_day d WHERE d.publisher_id = p_publisher AND d.agent_id = p_agent;
    INSERT INTO agent_user (publisher_id, agent_id, version, user_id, runs)
    SELECT p_publisher, p_agent, v.version, b.user_id, count(*)
    FROM agent_run_bill b, LATERAL (VALUES (b.version), ('')) AS v (version)
    WHERE b.publisher_id = p_publisher AND b.agent_id = p_agent AND b.status = 'completed' AND NOT b.own
        AND b.user_id IS NOT NULL
    GROUP BY v.version, b.user_id;
    INSERT INTO agent_day (publisher_id, agent_id, day, version, runs, failed, cancelled, credits, own_runs)
    SELECT p_publisher, p_agent, (b.created_at AT TIME ZONE 'UTC')::date, b.version,
        count(*) FILTER (WHERE b.kind = 'completed'), count(*) FILTER (WHERE b.kind = 'failed'),
        count(*) FILTER (WHERE b.kind = 'cancelled'),
        coalesce(sum(b.credits) FILTER (WHERE b.kind = 'completed'), 0), count(*) FILTER (WHERE b.kind = 'own')
    FROM (SELECT b.*, store_kind(b.status, b.own) AS kind FROM agent_run_bill b) b
    WHERE b.publisher_id = p_publisher AND b.agent_id = p_agent
    GROUP BY 3, 4;

    -- one row for each version that ran or is published, and one for all together
    WITH ran AS (
        SELECT v.version,
            count(*) FILTER (WHERE b.kind = 'completed') AS runs,
            count(*) FILTER (WHERE b.kind = 'failed') AS failed,
            count(*) FILTER (WHERE b.kind = 'cancelled') AS cancelled,
            count(*) FILTER (WHERE b.kind = 'own') AS own_runs,
            sum(b.credits) FILTER (WHERE b.kind = 'completed') AS credits,
            count(*) FILTER (WHERE b.kind = 'completed' AND b.created_at >= p_since) AS weekly_runs,
            sum(b.credits) FILTER (WHERE b.kind = 'completed' AND b.created_at >= p_since) AS weekly_credits,
            count(DISTINCT b.user_id) FILTER (WHERE b.kind = 'completed') AS users,
            store_histogram(store_bucket(b.duration_ms), 1) FILTER (WHERE b.kind = 'completed') AS durations,
            max(b.created_at) FILTER (WHERE b.kind = 'completed') AS last_used
        FROM (SELECT b.*, store_kind(b.status, b.own) AS kind FROM agent_run_bill b) b,
            LATERAL (VALUES (b.version), ('')) AS v (version)
        WHERE b.publisher_id = p_publisher AND b.agent_id = p_agent
        GROUP BY v.version
    ),
    told AS MATERIALIZED (
        SELECT n.version, coalesce(r.runs, 0) AS runs, coalesce(r.failed, 0) AS failed,
            coalesce(r.cancelled, 0) AS cancelled, coalesce(r.own_runs, 0) AS own_runs, coalesce(r.credits, 0) AS credits,
            coalesce(r.weekly_runs, 0) AS weekly_runs, coalesce(r.weekly_credits, 0) AS weekly_credits,
            coalesce(r.users, 0) AS users, coalesce(r.durations, array_fill(0::bigint, ARRAY[16])) AS durations,
            r.last_used
        FROM (
            SELECT v.version FROM agent_version v WHERE v.publisher_id = p_publisher AND v.agent_id = p_agent
            UNION ALL SELECT ''
        ) n LEFT JOIN ran r USING (version)
    ),
    versions AS (
        UPDATE agent_version a SET
            runs = t.runs, failed = t.failed, cancelled = t.cancelled, own_runs = t.own_runs, credits = t.credits,
            weekly_runs = t.weekly_runs, weekly_credits = t.weekly_credits, unique_users = t.users,
            durations = t.durations, last_used = t.last_used
        FROM told t
        WHERE a.publisher_id = p_publisher AND a.agent_id = p_agent AND a.version = t.version
    )
    UPDATE agent a SET
        runs = t.runs, failed = t.failed, cancelled = t.cancelled, own_runs = t.own_runs, credits = t.credits,
        weekly_runs = t.weekly_runs, weekly_credits = t.weekly_credits, unique_users = t.users,
        durations = t.durations, last_used = t.last_used
    FROM told t
    WHERE t.version = '' AND a.publisher_id = p_publisher AND a.id = p_agent;
END $$;
