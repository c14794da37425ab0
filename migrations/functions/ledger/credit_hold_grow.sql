-- Grow a call's hold to p_wanted credits, or to what other holds leave available to its funding and its budgets, and return the
-- new amount. Returns NULL, changing nothing, if that is less than p_needed or the call has no hold. Never shrinks a hold.
CREATE OR REPLACE FUNCTION credit_hold_grow(p_request text, p_needed bigint, p_wanted bigint, p_now timestamptz) RETURNS bigint
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    v_hold credit_hold;
    v_free bigint;
    v_amount bigint;
BEGIN
    SELECT * INTO v_hold FROM credit_hold h WHERE h.request_id = p_request;
    PERFORM FROM credit_account a WHERE a.id = v_hold.account_id FOR UPDATE;
    SELECT CASE v_hold.funding
        WHEN 'plan' THEN a.plan - a.plan_held
        WHEN 'credits' THEN a.credits - a.credits_held
        WHEN 'byok' THEN p_wanted
        ELSE a.every - a.every_held
    END INTO v_free FROM credit_available(v_hold.account_id, p_request, p_now) a;
    v_free := least(v_free, budget_free(v_hold, p_now));
    UPDATE credit_hold h SET amount = greatest(h.amount, least(p_wanted, v_free))
    WHERE h.request_id = p_request AND greatest(h.amount, v_free) >= p_needed
    RETURNING h.amount INTO v_amount;
    RETURN v_amount;
END $$;
