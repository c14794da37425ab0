-- A call that is settled, whatever it costs: of runs that go on nothing is to do, but their locks make their finish wait
-- until the call can be seen. Runs that ended are counted again.
CREATE OR REPLACE FUNCTION store_follow_call() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    v_run text;
BEGIN
    FOREACH v_run IN ARRAY store_settling(ARRAY[NEW.run_id]) LOOP
        -- above the call's own run it only matters that there is one
        IF v_run = NEW.run_id OR NOT EXISTS (SELECT FROM agent_run_bill b WHERE b.run_id = v_run) THEN
            PERFORM store_count(v_run);
        END IF;
    END LOOP;
    RETURN NULL;
END $$;

CREATE TRIGGER store_call_billed AFTER INSERT OR UPDATE OF credits, state, run_id ON gateway_call
FOR EACH ROW WHEN (NEW.run_id IS NOT NULL AND NEW.state = 'settled')
EXECUTE FUNCTION store_follow_call();
