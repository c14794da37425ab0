-- Recompute an agent's statistics from its runs and their calls: on its first publication, or as a repair.
CREATE OR REPLACE FUNCTION store_recount(p_publisher text, p_agent text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_since timestamptz := store_since();
    v_listed boolean;
BEGIN
    PERFORM pg_advisory_xact_lock(store_agent_key(p_publisher, p_agent));
    PERFORM FROM agent a WHERE a.publisher_id = p_publisher AND a.id = p_agent FOR NO KEY UPDATE;
    v_listed := FOUND;
    IF v_listed THEN
        DELETE FROM agent_run_bill b
        WHERE b.publisher_id = p_publisher AND b.agent_id = p_agent
            AND NOT EXISTS (
                SELECT FROM finished_agent_run f
                WHERE f.run_id = b.run_id AND f.publisher_id = p_publisher AND f.agent_id = p_agent
            );
        INSERT INTO agent_run_bill AS b
        SELECT f.*
        FROM (
            SELECT r.id FROM agent_run r
            WHERE r.publisher_id = p_publisher AND r.agent_name = p_agent AND r.status = 'completed'
            UNION ALL
            SELECT r.id FROM agent_run r
            WHERE r.publisher_id = p_publisher AND r.agent_name = p_agent AND r.status IN ('failed', 'cancelled')
        ) r
        JOIN finished_agent_run f ON f.run_id = r.id
        LEFT JOIN agent_run_bill k ON k.run_id = f.run_id
        WHERE (k.*) IS DISTINCT FROM (f.*)
        ON CONFLICT (run_id) DO UPDATE SET
            publisher_id = excluded.publisher_id, agent_id = excluded.agent_id, version = excluded.version,
            user_id = excluded.user_id, status = excluded.status, credits = excluded.credits,
            duration_ms = excluded.duration_ms, created_at = excluded.created_at, own = excluded.own;
    ELSE
        DELETE FROM agent_run_bill b WHERE b.publisher_id = p_publisher AND b.agent_id = p_agent;
    END IF;
    PERFORM store_tell(p_publisher, p_agent, v_since);
END $$;
