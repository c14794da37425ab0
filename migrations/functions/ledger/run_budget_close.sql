-- End a run's envelope: the one it came from gets back its limit, and takes over what was spent of it, the holds of its calls
-- in flight and the envelopes of its sub-runs. No effect on a closed one. Locks both envelopes, the one above first.
CREATE OR REPLACE FUNCTION run_budget_close(p_run text, p_now timestamptz) RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    v_closed run_budget;
    v_parent run_budget;
BEGIN
    LOOP
        SELECT * INTO v_closed FROM run_budget e WHERE e.run_id = p_run;
        IF v_closed.run_id IS NULL OR v_closed.closed_at IS NOT NULL THEN
            RETURN;
        END IF;
        v_parent := run_budget_of(v_closed.parent_run_id);
        SELECT * INTO v_closed FROM run_budget e WHERE e.run_id = p_run FOR UPDATE;
        EXIT WHEN v_closed.parent_run_id IS NOT DISTINCT FROM v_parent.run_id;
        -- the one above was closed meanwhile
    END LOOP;
    IF v_closed.closed_at IS NOT NULL THEN
        RETURN;
    END IF;
    UPDATE run_budget e SET closed_at = p_now WHERE e.run_id = p_run;
    IF v_parent.run_id IS NULL THEN
        RETURN;
    END IF;
    UPDATE run_budget e
    SET spent = e.spent + v_closed.spent, reserved = e.reserved + v_closed.reserved - v_closed.limit_credits
    WHERE e.run_id = v_parent.run_id;
    UPDATE run_budget e SET parent_run_id = v_parent.run_id WHERE e.parent_run_id = p_run AND e.closed_at IS NULL;
    -- in the order in which holds are extended
    PERFORM FROM credit_hold h WHERE h.envelope_run_id = p_run ORDER BY h.request_id FOR UPDATE;
    UPDATE credit_hold h SET envelope_run_id = v_parent.run_id WHERE h.envelope_run_id = p_run;
END $$;
