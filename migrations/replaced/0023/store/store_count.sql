-- Bring what a run is counted for in line with what it, its calls and those of the runs below it are. Once or often: the
-- same.
CREATE OR REPLACE FUNCTION store_count(p_run text) RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    v_run record;
    v_bill agent_run_bill;
BEGIN
    PERFORM store_run_lock(p_run);
    SELECT r.publisher_id, r.agent_name INTO v_run FROM agent_run r
    WHERE r.id = p_run AND r.publisher_id IS NOT NULL AND r.status <> 'running'
    FOR KEY SHARE;
    IF FOUND THEN
        PERFORM store_since();
        PERFORM pg_advisory_xact_lock_shared(store_agent_key(v_run.publisher_id, v_run.agent_name));
        IF EXISTS (SELECT FROM agent a WHERE a.publisher_id = v_run.publisher_id AND a.id = v_run.agent_name) THEN
            SELECT f.* INTO v_bill FROM finished_agent_run f WHERE f.run_id = p_run;
        END IF;
        IF v_bill.run_id IS NOT NULL THEN
            INSERT INTO agent_run_bill AS b SELECT v_bill.*
            ON CONFLICT (run_id) DO UPDATE SET
                publisher_id = excluded.publisher_id, agent_id = excluded.agent_id, version = excluded.version,
                user_id = excluded.user_id, status = excluded.status, credits = excluded.credits,
                duration_ms = excluded.duration_ms, created_at = excluded.created_at, own = excluded.own
            WHERE (b.*) IS DISTINCT FROM (excluded.*);
            RETURN;
        END IF;
    END IF;
    DELETE FROM agent_run_bill b WHERE b.run_id = p_run;
END $$;
