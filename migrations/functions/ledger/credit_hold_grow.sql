-- Let a call in flight hold p_wanted credits, or as many as are free beside the others' holds. Returns what it holds
-- then; NULL, and nothing is changed, when that would be less than p_needed, or the call holds nothing. Never less than
-- it held before.
CREATE OR REPLACE FUNCTION credit_hold_grow(p_request text, p_needed bigint, p_wanted bigint, p_now timestamptz) RETURNS bigint
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    v_account text;
    v_free bigint;
    v_amount bigint;
BEGIN
    SELECT h.account_id INTO v_account FROM credit_hold h WHERE h.request_id = p_request;
    PERFORM FROM credit_account a WHERE a.id = v_account FOR UPDATE;
    v_free := credit_net(v_account, p_now) - (
        SELECT coalesce(sum(h.amount), 0) FROM credit_hold h
        WHERE h.account_id = v_account AND h.state = 'live' AND h.expires_at > p_now AND h.request_id <> p_request
    );
    UPDATE credit_hold h SET amount = greatest(h.amount, least(p_wanted, v_free))
    WHERE h.request_id = p_request AND greatest(h.amount, v_free) >= p_needed
    RETURNING h.amount INTO v_amount;
    RETURN v_amount;
END $$;
