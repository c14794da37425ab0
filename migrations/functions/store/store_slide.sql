-- Advance the 7-day window to end at p_now, by one day at most and never backwards: subtracts the runs that left it. Returns
-- the new start. Takes the window's lock exclusively: no run is counted meanwhile.
CREATE OR REPLACE FUNCTION store_slide(p_now timestamptz) RETURNS timestamptz
LANGUAGE plpgsql AS $$
DECLARE
    v_since timestamptz;
    v_next timestamptz := p_now - interval '7 days';
BEGIN
    PERFORM pg_advisory_xact_lock(store_window_key());
    SELECT w.since INTO v_since FROM store_window w;
    IF NOT FOUND THEN
        INSERT INTO store_window (since) VALUES (v_next);
        RETURN v_next;
    END IF;
    v_next := least(v_next, v_since + interval '1 day');
    IF v_next <= v_since THEN
        RETURN v_since;
    END IF;
    PERFORM FROM agent a
    WHERE (a.publisher_id, a.id) IN (
        SELECT b.publisher_id, b.agent_id FROM agent_run_bill b
        WHERE b.created_at >= v_since AND b.created_at < v_next AND b.status = 'completed' AND NOT b.own
    )
    ORDER BY a.publisher_id, a.id FOR NO KEY UPDATE;
    WITH left_behind AS MATERIALIZED (
        SELECT b.publisher_id, b.agent_id, v.version, count(*) AS runs, sum(b.credits) AS credits
        FROM agent_run_bill b, LATERAL (VALUES (b.version), ('')) AS v (version)
        WHERE b.created_at >= v_since AND b.created_at < v_next AND b.status = 'completed' AND NOT b.own
        GROUP BY 1, 2, 3
    ),
    versions AS (
        UPDATE agent_version a
        SET weekly_runs = a.weekly_runs - l.runs, weekly_credits = a.weekly_credits - l.credits
        FROM left_behind l
        WHERE a.publisher_id = l.publisher_id AND a.agent_id = l.agent_id AND a.version = l.version
    )
    UPDATE agent a SET weekly_runs = a.weekly_runs - l.runs, weekly_credits = a.weekly_credits - l.credits
    FROM left_behind l
    WHERE l.version = '' AND a.publisher_id = l.publisher_id AND a.id = l.agent_id;
    UPDATE store_window SET since = v_next;
    RETURN v_next;
END $$;
