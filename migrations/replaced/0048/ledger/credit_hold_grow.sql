-- Grow a call's hold to p_wanted credits, or to what other holds leave available to its funding, and return the new amount.
-- Returns NULL, changing nothing, if that is less than p_needed or the call has no hold. Never shrinks a hold.
CREATE OR REPLACE FUNCTION credit_hold_grow(p_request text, p_needed bigint, p_wanted bigint, p_now timestamptz) RETURNS bigint
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    v_account text;
    v_funding text;
    v_free bigint;
    v_amount bigint;
BEGIN
    SELECT h.account_id, h.funding INTO v_account, v_funding FROM credit_hold h WHERE h.request_id = p_request;
    PERFORM FROM credit_account a WHERE a.id = v_account FOR UPDATE;
    SELECT CASE v_funding
        WHEN 'plan' THEN a.plan - a.plan_held
        WHEN 'credits' THEN a.credits - a.credits_held
        ELSE a.every - a.every_held
    END INTO v_free FROM credit_available(v_account, p_request, p_now) a;
    UPDATE credit_hold h SET amount = greatest(h.amount, least(p_wanted, v_free))
    WHERE h.request_id = p_request AND greatest(h.amount, v_free) >= p_needed
    RETURNING h.amount INTO v_amount;
    RETURN v_amount;
END $$;
