-- Recompute which counted runs are the publishers' own, after a change of owner or members. Takes the window's lock
-- exclusively: no run is counted meanwhile. p_user limits it to one user; NULL means all.
CREATE OR REPLACE FUNCTION store_own_anew(p_publishers text[], p_user text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_before agent_run_bill[];
    v_after agent_run_bill[];
BEGIN
    PERFORM pg_advisory_xact_lock(store_window_key());
    SELECT array_agg(b) INTO v_before FROM agent_run_bill b
    WHERE b.publisher_id = ANY (p_publishers) AND (p_user IS NULL OR b.user_id = p_user)
        AND b.own <> store_is_own(b.publisher_id, b.user_id);
    IF v_before IS NULL THEN
        RETURN;
    END IF;
    WITH turned AS (
        UPDATE agent_run_bill b SET own = NOT b.own
        WHERE b.run_id IN (SELECT n.run_id FROM unnest(v_before) n)
        RETURNING b
    )
    SELECT array_agg(t.b) INTO v_after FROM turned t;
    PERFORM store_move(v_after, v_before);
END $$;
