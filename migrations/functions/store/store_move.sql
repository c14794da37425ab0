-- Add runs to the statistics of their agents, versions, days and users, and subtract others.
CREATE OR REPLACE FUNCTION store_move(p_added agent_run_bill[], p_removed agent_run_bill[]) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_since timestamptz := store_since();
BEGIN
    PERFORM FROM agent a
    WHERE (a.publisher_id, a.id) IN (SELECT c.publisher_id, c.agent_id FROM unnest(p_added || p_removed) c)
    ORDER BY a.publisher_id, a.id FOR NO KEY UPDATE;

    WITH change AS MATERIALIZED (
        SELECT b.*, store_kind(b.status, b.own) AS kind, store_bucket(b.duration_ms) AS bucket, 1 AS sign
        FROM unnest(p_added) b
        UNION ALL
        SELECT b.*, store_kind(b.status, b.own), store_bucket(b.duration_ms), -1 FROM unnest(p_removed) b
    ),
    people AS (
        SELECT c.publisher_id, c.agent_id, v.version, c.user_id, sum(c.sign) AS runs
        FROM change c, LATERAL (VALUES (c.version), ('')) AS v (version)
        WHERE c.kind = 'completed' AND c.user_id IS NOT NULL
        GROUP BY 1, 2, 3, 4 HAVING sum(c.sign) <> 0
    ),
    told AS (
        INSERT INTO agent_user AS u (publisher_id, agent_id, version, user_id, runs)
        SELECT p.publisher_id, p.agent_id, p.version, p.user_id, p.runs FROM people p
        ON CONFLICT (publisher_id, agent_id, version, user_id) DO UPDATE SET runs = u.runs + excluded.runs
        RETURNING publisher_id, agent_id, version, user_id, runs
    ),
    uniques AS (
        SELECT publisher_id, agent_id, version, sum((t.runs > 0)::int - (t.runs - p.runs > 0)::int) AS users
        FROM people p JOIN told t USING (publisher_id, agent_id, version, user_id)
        GROUP BY 1, 2, 3
    ),
    sums AS (
        SELECT c.publisher_id, c.agent_id, v.version,
            coalesce(sum(c.sign) FILTER (WHERE c.kind = 'completed'), 0) AS runs,
            coalesce(sum(c.sign) FILTER (WHERE c.kind = 'failed'), 0) AS failed,
            coalesce(sum(c.sign) FILTER (WHERE c.kind = 'cancelled'), 0) AS cancelled,
            coalesce(sum(c.sign) FILTER (WHERE c.kind = 'own'), 0) AS own_runs,
            coalesce(sum(c.sign * c.credits) FILTER (WHERE c.kind = 'completed'), 0) AS credits,
            coalesce(sum(c.sign) FILTER (WHERE c.kind = 'completed' AND c.created_at >= v_since), 0) AS weekly_runs,
            coalesce(sum(c.sign * c.credits) FILTER (WHERE c.kind = 'completed' AND c.created_at >= v_since), 0) AS weekly_credits,
            store_histogram(c.bucket, c.sign) FILTER (WHERE c.kind = 'completed') AS durations,
            max(c.created_at) FILTER (WHERE c.kind = 'completed' AND c.sign > 0) AS came,
            max(c.created_at) FILTER (WHERE c.kind = 'completed' AND c.sign < 0) AS went
        FROM change c, LATERAL (VALUES (c.version), ('')) AS v (version)
        GROUP BY 1, 2, 3
    ),
    moved AS MATERIALIZED (
        SELECT s.*, coalesce(u.users, 0) AS users
        FROM sums s LEFT JOIN uniques u USING (publisher_id, agent_id, version)
    ),
    days AS (
        INSERT INTO agent_day AS d (publisher_id, agent_id, day, version, runs, failed, cancelled, credits, own_runs)
        SELECT c.publisher_id, c.agent_id, (c.created_at AT TIME ZONE 'UTC')::date, c.version,
            coalesce(sum(c.sign) FILTER (WHERE c.kind = 'completed'), 0),
            coalesce(sum(c.sign) FILTER (WHERE c.kind = 'failed'), 0),
            coalesce(sum(c.sign) FILTER (WHERE c.kind = 'cancelled'), 0),
            coalesce(sum(c.sign * c.credits) FILTER (WHERE c.kind = 'completed'), 0),
            coalesce(sum(c.sign) FILTER (WHERE c.kind = 'own'), 0)
        FROM change c GROUP BY 1, 2, 3, 4
        ON CONFLICT (publisher_id, agent_id, day, version) DO UPDATE SET
            runs = d.runs + excluded.runs, failed = d.failed + excluded.failed,
            cancelled = d.cancelled + excluded.cancelled, credits = d.credits + excluded.credits,
            own_runs = d.own_runs + excluded.own_runs
    ),
    versions AS (
        UPDATE agent_version a SET
            runs = a.runs + m.runs, failed = a.failed + m.failed, cancelled = a.cancelled + m.cancelled,
            own_runs = a.own_runs + m.own_runs,
            credits = a.credits + m.credits, weekly_runs = a.weekly_runs + m.weekly_runs,
            weekly_credits = a.weekly_credits + m.weekly_credits, unique_users = a.unique_users + m.users,
            durations = store_sum(a.durations, m.durations),
            last_used = CASE WHEN m.went >= a.last_used AND m.went > coalesce(m.came, '-infinity') THEN (
                SELECT max(b.created_at) FROM agent_run_bill b
                WHERE b.publisher_id = a.publisher_id AND b.agent_id = a.agent_id AND b.version = a.version
                    AND b.status = 'completed' AND NOT b.own AND b.created_at <= m.went
            ) ELSE greatest(a.last_used, m.came) END
        FROM moved m
        WHERE a.publisher_id = m.publisher_id AND a.agent_id = m.agent_id AND a.version = m.version
    )
    UPDATE agent a SET
        runs = a.runs + m.runs, failed = a.failed + m.failed, cancelled = a.cancelled + m.cancelled,
        own_runs = a.own_runs + m.own_runs,
        credits = a.credits + m.credits, weekly_runs = a.weekly_runs + m.weekly_runs,
        weekly_credits = a.weekly_credits + m.weekly_credits, unique_users = a.unique_users + m.users,
        durations = store_sum(a.durations, m.durations),
        last_used = CASE WHEN m.went >= a.last_used AND m.went > coalesce(m.came, '-infinity') THEN (
            SELECT b.created_at FROM agent_run_bill b
            WHERE b.publisher_id = a.publisher_id AND b.agent_id = a.id
                AND b.status = 'completed' AND NOT b.own AND b.created_at <= m.went
            ORDER BY b.created_at DESC LIMIT 1
        ) ELSE greatest(a.last_used, m.came) END
    FROM moved m
    WHERE m.version = '' AND a.publisher_id = m.publisher_id AND a.id = m.agent_id;

    IF p_removed IS NOT NULL THEN
        DELETE FROM agent_user u USING (SELECT DISTINCT publisher_id, agent_id, user_id FROM unnest(p_removed)) c
        WHERE u.publisher_id = c.publisher_id AND u.agent_id = c.agent_id AND u.user_id = c.user_id AND u.runs = 0;
        DELETE FROM agent_day d USING (
            SELECT DISTINCT publisher_id, agent_id, version, (created_at AT TIME ZONE 'UTC')::date AS day
            FROM unnest(p_removed)
        ) c
        WHERE d.publisher_id = c.publisher_id AND d.agent_id = c.agent_id AND d.day = c.day AND d.version = c.version
            AND d.runs = 0 AND d.failed = 0 AND d.cancelled = 0 AND d.credits = 0 AND d.own_runs = 0;
    END IF;
END $$;
