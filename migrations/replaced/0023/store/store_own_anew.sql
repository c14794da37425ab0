-- Let the runs of publishers be their own, or no longer, as who owns them says now. Lets nobody count meanwhile.
-- p_user: of this person alone; of all without.
CREATE OR REPLACE FUNCTION store_own_anew(p_publishers text[], p_user text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(store_window_key());
    UPDATE agent_run_bill b SET own = NOT b.own
    WHERE b.publisher_id = ANY (p_publishers) AND (p_user IS NULL OR b.user_id = p_user)
        AND b.own <> store_is_own(b.publisher_id, b.user_id);
END $$;
