-- Bring what refunds and disputes took back of a grant to p_total credits, all of them together: take the difference, or
-- give it back. What was spent already becomes debt. Repeating it changes nothing. Nothing is given back of what was gone
-- when an operator revoked the grant.
CREATE OR REPLACE FUNCTION credit_take_back(
    p_operation text, p_total bigint, p_cause text, p_now timestamptz, OUT moved bigint, OUT balance bigint
)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_grant credit_ledger;
    v_account text;
    v_granted bigint;
    v_before bigint;
    v_revoked bigint;
    v_least bigint;
BEGIN
    SELECT * INTO v_grant FROM credit_ledger l WHERE l.operation_id = p_operation;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no grant %', p_operation USING ERRCODE = 'ST404';
    END IF;
    v_account := credit_account_lock(v_grant.user_id, v_grant.org_id);
    PERFORM credit_expire(v_account, p_now);
    SELECT * INTO v_grant FROM credit_ledger l WHERE l.operation_id = p_operation;
    SELECT
        coalesce(sum(e.amount) FILTER (WHERE e.kind = 'grant'), 0),
        coalesce(-sum(e.amount) FILTER (WHERE e.kind <> 'grant'), 0),
        max(e.id) FILTER (WHERE e.kind = 'revocation' AND e.cause = 'revocation')
    INTO v_granted, v_before, v_revoked
    FROM credit_entry e
    WHERE e.operation_id = p_operation AND e.kind IN ('grant', 'revocation', 'reinstatement');
    SELECT coalesce(-sum(e.amount), 0) INTO v_least FROM credit_entry e
    WHERE e.operation_id = p_operation AND e.kind IN ('revocation', 'reinstatement') AND e.id <= v_revoked;
    moved := greatest(least(p_total, v_granted), v_least) - v_before;
    balance := v_grant.balance - moved;
    IF moved = 0 THEN
        RETURN;
    END IF;
    UPDATE credit_ledger
    SET balance = credit_take_back.balance,
        principal = CASE WHEN v_revoked IS NULL THEN v_grant.principal - moved ELSE 0 END
    WHERE operation_id = p_operation;
    INSERT INTO credit_entry (account_id, operation_id, kind, amount, grant_balance_after, balance_after, cause, created_at)
    SELECT
        v_account, p_operation, CASE WHEN moved > 0 THEN 'revocation' ELSE 'reinstatement' END, -moved, credit_take_back.balance,
        sum(l.balance), p_cause, p_now
    FROM credit_ledger l
    WHERE coalesce(l.org_id, l.user_id) = v_account;
    -- what is given back of a grant whose time is over
    PERFORM credit_expire(v_account, p_now);
END $$;
