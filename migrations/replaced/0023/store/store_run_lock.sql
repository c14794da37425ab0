-- A run's advisory lock, until the transaction ends.
CREATE OR REPLACE FUNCTION store_run_lock(p_run text) RETURNS void
LANGUAGE sql VOLATILE AS $$
    SELECT pg_advisory_xact_lock(hashtextextended('store run ' || p_run, 0));
$$;
