-- First statement of a publication: locks these agents until its end, so that no run of them is counted meanwhile. Locks in
-- id order to avoid deadlocks; store_recount and store_tell then take no further lock.
CREATE OR REPLACE FUNCTION store_enter(p_publisher text, p_agents text[]) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_agent text;
BEGIN
    PERFORM store_since();
    FOR v_agent IN SELECT DISTINCT u.id FROM unnest(p_agents) AS u (id) ORDER BY 1 LOOP
        PERFORM pg_advisory_xact_lock(store_agent_key(p_publisher, v_agent));
        PERFORM FROM agent a WHERE a.publisher_id = p_publisher AND a.id = v_agent FOR NO KEY UPDATE;
    END LOOP;
END $$;
