-- Lock what the settlement of calls of these runs may change: the runs and those above them, and the agents of those that
-- ended. Returns the runs that ended, to be counted again in this order.
CREATE OR REPLACE FUNCTION store_settling(p_runs text[]) RETURNS text[]
LANGUAGE plpgsql AS $$
DECLARE
    v_runs text[];
    v_run text;
    v_ended text[];
    v_agent record;
BEGIN
    SELECT array_agg(DISTINCT a.id ORDER BY a.id) INTO v_runs
    FROM agent_run r, unnest(r.ancestor_run_ids || r.id) AS above (id) JOIN agent_run a ON a.id = above.id
    WHERE r.id = ANY (p_runs) AND (a.id = r.id OR a.user_id = r.user_id) AND a.publisher_id IS NOT NULL;
    IF v_runs IS NULL THEN
        RETURN '{}';
    END IF;
    FOREACH v_run IN ARRAY v_runs LOOP
        PERFORM store_run_lock(v_run);
    END LOOP;
    SELECT array_agg(r.id ORDER BY r.publisher_id, r.agent_name, r.id) INTO v_ended
    FROM agent_run r WHERE r.id = ANY (v_runs) AND r.status <> 'running';
    IF v_ended IS NULL THEN
        RETURN '{}';
    END IF;
    PERFORM store_since();
    FOR v_agent IN
        SELECT DISTINCT r.publisher_id, r.agent_name FROM agent_run r WHERE r.id = ANY (v_ended) ORDER BY 1, 2
    LOOP
        PERFORM pg_advisory_xact_lock_shared(store_agent_key(v_agent.publisher_id, v_agent.agent_name));
        PERFORM FROM agent a
        WHERE a.publisher_id = v_agent.publisher_id AND a.id = v_agent.agent_name FOR NO KEY UPDATE;
    END LOOP;
    RETURN v_ended;
END $$;
