-- Trigger. A call was settled, at any cost: queue its run (store_apply). Also while the run is running, because it may
-- finish in a transaction that this one cannot see.
CREATE OR REPLACE FUNCTION store_follow_call() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO store_queue (run_id) VALUES (NEW.run_id);
    RETURN NULL;
END $$;

CREATE TRIGGER store_call_billed AFTER INSERT OR UPDATE OF credits, state, run_id ON gateway_call
FOR EACH ROW WHEN (NEW.run_id IS NOT NULL AND NEW.state = 'settled')
EXECUTE FUNCTION store_follow_call();
