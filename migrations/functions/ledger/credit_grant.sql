-- Add credits, once per operation id. A person's debt is cleared first, in spending order; debt beyond the grant remains.
-- Blocks of a plan clear the debt of blocks, and only they do.
-- The grant's row is written even when nothing of it is left.
CREATE OR REPLACE FUNCTION credit_grant(
    p_operation text, p_user text, p_org text, p_amount bigint, p_type grant_type, p_priority int,
    p_description text, p_expires timestamptz, p_now timestamptz,
    OUT created boolean, OUT balance bigint, OUT debt_cleared bigint
)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_account text := credit_account_lock(p_user, p_org);
    v_total bigint;
    v_grant record;
    v_part bigint;
BEGIN
    SELECT l.balance, coalesce(l.org_id, l.user_id) AS account INTO v_grant
    FROM credit_ledger l WHERE l.operation_id = p_operation;
    IF FOUND THEN
        IF v_grant.account <> v_account THEN
            RAISE EXCEPTION 'operation % belongs to another account', p_operation USING ERRCODE = 'ST409';
        END IF;
        created := false;
        balance := v_grant.balance;
        debt_cleared := 0;
        RETURN;
    END IF;
    PERFORM credit_expire(v_account, p_now);
    v_total := credit_net(v_account, p_now) + p_amount;
    created := true;
    balance := p_amount;
    debt_cleared := 0;
    INSERT INTO credit_entry (account_id, operation_id, kind, amount, grant_balance_after, balance_after, cause, created_at)
    VALUES (v_account, p_operation, 'grant', p_amount, p_amount, v_total, p_operation, p_now);
    IF p_org IS NULL THEN
        FOR v_grant IN
            SELECT l.operation_id, l.balance FROM credit_ledger l
            WHERE coalesce(l.org_id, l.user_id) = v_account AND l.balance < 0
                AND (l.type = 'subscription') = (p_type = 'subscription')
            ORDER BY l.priority, l.expires_at NULLS LAST, l.created_at, l.operation_id
        LOOP
            v_part := least(balance, -v_grant.balance);
            EXIT WHEN v_part = 0;
            balance := balance - v_part;
            debt_cleared := debt_cleared + v_part;
            UPDATE credit_ledger SET balance = v_grant.balance + v_part WHERE operation_id = v_grant.operation_id;
            INSERT INTO credit_entry (account_id, operation_id, kind, amount, grant_balance_after, balance_after, cause, created_at)
            VALUES
                (v_account, p_operation, 'debt_cleared', -v_part, balance, v_total - v_part, p_operation, p_now),
                (v_account, v_grant.operation_id, 'debt_cleared', v_part, v_grant.balance + v_part, v_total, p_operation, p_now);
        END LOOP;
    END IF;
    IF debt_cleared > 0 THEN
        p_description := concat(p_description, ' (', debt_cleared, ' credits used to clear existing debt)');
    END IF;
    INSERT INTO credit_ledger
        (operation_id, user_id, org_id, principal, balance, type, description, priority, expires_at, created_at)
    VALUES
        (p_operation, p_user, p_org, p_amount, credit_grant.balance, p_type, p_description, p_priority, p_expires, p_now);
END $$;
