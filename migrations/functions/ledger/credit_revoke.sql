-- Revoke a grant. Outcomes: 'revoked', 'unknown' (no such operation), 'unchanged' (already revoked). Rejects a grant in debt.
CREATE OR REPLACE FUNCTION credit_revoke(p_operation text, p_reason text, p_now timestamptz, OUT outcome text, OUT credits bigint)
LANGUAGE plpgsql AS $$
DECLARE
    v_grant credit_ledger;
    v_account text;
BEGIN
    credits := 0;
    SELECT * INTO v_grant FROM credit_ledger l WHERE l.operation_id = p_operation;
    IF NOT FOUND THEN
        outcome := 'unknown';
        RETURN;
    END IF;
    v_account := credit_account_lock(v_grant.user_id, v_grant.org_id);
    PERFORM credit_expire(v_account, p_now);
    SELECT * INTO v_grant FROM credit_ledger l WHERE l.operation_id = p_operation;
    IF v_grant.balance < 0 THEN
        RAISE EXCEPTION 'grant % is in debt', p_operation USING ERRCODE = 'ST403';
    END IF;
    IF v_grant.principal = 0 AND v_grant.balance = 0 THEN
        outcome := 'unchanged';
        RETURN;
    END IF;
    outcome := 'revoked';
    credits := v_grant.balance;
    UPDATE credit_ledger
    SET principal = 0, balance = 0, description = concat(v_grant.description, ' (Revoked: ', p_reason, ')')
    WHERE operation_id = p_operation;
    INSERT INTO credit_entry (account_id, operation_id, kind, amount, grant_balance_after, balance_after, cause, created_at)
    VALUES (v_account, p_operation, 'revocation', -credits, 0, credit_net(v_account, p_now), 'revocation', p_now);
END $$;
