-- Lock and return the envelope that a run's envelope p_run leads to: itself, or after it was closed the one it came from. A
-- closed envelope that came from none still limits what is left of its runs. NULL without such an envelope. An envelope's row
-- is the lock of what is held and reserved from it; it is locked after accounts, and before holds.
CREATE OR REPLACE FUNCTION run_budget_of(p_run text) RETURNS run_budget
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    v_next text := p_run;
    v_found run_budget;
BEGIN
    LOOP
        EXIT WHEN v_next IS NULL;
        SELECT * INTO v_found FROM run_budget e WHERE e.run_id = v_next FOR UPDATE;
        EXIT WHEN v_found.closed_at IS NULL OR v_found.parent_run_id IS NULL;
        v_next := v_found.parent_run_id;
    END LOOP;
    RETURN v_found;
END $$;
