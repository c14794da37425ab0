-- The start of the current 7-day window. Takes the window's lock shared until the transaction ends.
CREATE OR REPLACE FUNCTION store_since() RETURNS timestamptz
LANGUAGE plpgsql AS $$
DECLARE
    v_since timestamptz;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'the store counts in READ COMMITTED transactions only' USING ERRCODE = '25001';
    END IF;
    PERFORM pg_advisory_xact_lock_shared(store_window_key());
    SELECT w.since INTO v_since FROM store_window w;
    IF NOT FOUND THEN
        INSERT INTO store_window (since) VALUES (now() - interval '7 days') ON CONFLICT DO NOTHING;
        SELECT w.since INTO v_since FROM store_window w;
    END IF;
    RETURN v_since;
END $$;
