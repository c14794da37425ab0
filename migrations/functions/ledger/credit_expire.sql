-- Write off expired grants. Returns the credits written off and the number of grants.
CREATE OR REPLACE FUNCTION credit_expire(p_account text, p_now timestamptz, OUT credits bigint, OUT grants int)
LANGUAGE plpgsql AS $$
DECLARE
    v_grant record;
    v_total bigint;
BEGIN
    credits := 0;
    grants := 0;
    PERFORM FROM credit_account WHERE id = p_account FOR UPDATE;
    FOR v_grant IN
        SELECT l.operation_id, l.balance, l.expires_at FROM credit_ledger l
        WHERE coalesce(l.org_id, l.user_id) = p_account AND l.balance > 0 AND l.expires_at <= p_now
        ORDER BY l.expires_at, l.operation_id
    LOOP
        IF v_total IS NULL THEN
            SELECT sum(l.balance) INTO v_total FROM credit_ledger l
            WHERE coalesce(l.org_id, l.user_id) = p_account AND l.balance <> 0;
        END IF;
        v_total := v_total - v_grant.balance;
        UPDATE credit_ledger SET balance = 0 WHERE operation_id = v_grant.operation_id;
        INSERT INTO credit_entry (account_id, operation_id, kind, amount, grant_balance_after, balance_after, cause, created_at)
        VALUES (p_account, v_grant.operation_id, 'expiry', -v_grant.balance, 0, v_total, 'expiry', p_now);
        credits := credits + v_grant.balance;
        grants := grants + 1;
    END LOOP;
END $$;
