-- What is left of a run's envelope: its limit less what its calls spent, what the envelopes of sub-runs reserve, and what calls
-- in flight other than p_request hold. Locks the envelope. No row without one.
CREATE OR REPLACE FUNCTION run_budget_left(p_run text, p_request text, p_now timestamptz)
RETURNS TABLE (run_id text, credits bigint, spent bigint, reserved bigint, held bigint, free bigint)
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    v_envelope run_budget := run_budget_of(p_run);
BEGIN
    IF v_envelope.run_id IS NULL THEN
        RETURN;
    END IF;
    -- a statement of its own, which sees what the lock waited for
    RETURN QUERY
    SELECT
        v_envelope.run_id, v_envelope.limit_credits, v_envelope.spent, v_envelope.reserved, h.held,
        v_envelope.limit_credits - v_envelope.spent - v_envelope.reserved - h.held
    FROM (
        SELECT coalesce(sum(h.amount), 0)::bigint AS held FROM credit_hold h
        WHERE h.envelope_run_id = v_envelope.run_id AND h.state = 'live' AND h.expires_at > p_now AND h.request_id <> p_request
    ) h;
END $$;
