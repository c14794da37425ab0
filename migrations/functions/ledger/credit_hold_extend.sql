-- Extend holds; revive those marked as lost. Returns the number of holds found.
CREATE OR REPLACE FUNCTION credit_hold_extend(p_requests text[], p_ttl_seconds int, p_now timestamptz) RETURNS int
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    v_count int;
BEGIN
    PERFORM FROM credit_hold h WHERE h.request_id = ANY (p_requests) ORDER BY h.request_id FOR UPDATE;
    UPDATE credit_hold
    SET state = 'live', lost_at = NULL, expires_at = p_now + make_interval(secs => p_ttl_seconds)
    WHERE request_id = ANY (p_requests);
    GET DIAGNOSTICS v_count = ROW_COUNT;
    RETURN v_count;
END $$;
