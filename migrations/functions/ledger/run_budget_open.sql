-- Give a run an envelope of p_credits, taken from the envelope of the nearest ancestor that has one, if any. NULL credits: the
-- run shares that envelope. Outcome NULL: done. 'budget' and 'budget_held': the ancestor's envelope leaves less; refusal
-- describes it. A run keeps its first envelope. Locks the ancestor's envelope.
CREATE OR REPLACE FUNCTION run_budget_open(
    p_run text, p_credits bigint, p_source text, p_now timestamptz, OUT outcome text, OUT refusal jsonb
)
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    v_run record;
    v_parent record;
    v_hold credit_hold;
BEGIN
    SELECT r.user_id, r.envelope_run_id, r.ancestor_run_ids INTO v_run FROM agent_run r WHERE r.id = p_run;
    IF NOT FOUND OR v_run.envelope_run_id = p_run THEN
        RETURN;
    END IF;
    IF v_run.envelope_run_id IS NULL THEN
        -- reported ancestors give access to nothing of others
        SELECT a.envelope_run_id INTO v_run.envelope_run_id
        FROM unnest(v_run.ancestor_run_ids) WITH ORDINALITY u (id, number)
        JOIN agent_run a ON a.id = u.id AND a.user_id = v_run.user_id
        WHERE a.envelope_run_id IS NOT NULL
        ORDER BY u.number DESC LIMIT 1;
    END IF;
    IF p_credits IS NULL THEN
        UPDATE agent_run SET envelope_run_id = v_run.envelope_run_id
        WHERE id = p_run AND v_run.envelope_run_id IS NOT NULL;
        RETURN;
    END IF;
    IF v_run.envelope_run_id IS NOT NULL THEN
        SELECT * INTO v_parent FROM run_budget_left(v_run.envelope_run_id, '', p_now);
        v_hold.envelope_run_id := v_parent.run_id;
        IF v_parent.free < p_credits THEN
            outcome := CASE WHEN v_parent.free + v_parent.held >= p_credits THEN 'budget_held' ELSE 'budget' END;
            v_hold.request_id := '';
            refusal := budget_refusal(v_hold, p_credits, p_now);
            RETURN;
        END IF;
        UPDATE run_budget SET reserved = reserved + p_credits WHERE run_id = v_parent.run_id;
    END IF;
    INSERT INTO run_budget (run_id, parent_run_id, limit_credits, source, created_at)
    VALUES (p_run, v_hold.envelope_run_id, p_credits, p_source, p_now);
    UPDATE agent_run SET envelope_run_id = p_run WHERE id = p_run;
END $$;
