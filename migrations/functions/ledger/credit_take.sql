-- Deduct credits from grants in spending order, writing off expired ones. p_funding: 'plan' takes from blocks and included
-- credits only, 'credits' from all but blocks, 'any' from all. The uncovered rest becomes debt: of the newest block if the plan
-- pays, else of the last other grant in that order; an account without one gets an empty grant to carry it. Never fails for
-- lack of credits. The caller holds the account's lock.
CREATE OR REPLACE FUNCTION credit_take(
    p_account text, p_amount bigint, p_cause text, p_message text, p_now timestamptz, p_funding text DEFAULT 'any',
    OUT total bigint, OUT from_purchased bigint, OUT debt bigint
)
LANGUAGE plpgsql AS $$
DECLARE
    v_grant record;
    v_part bigint;
BEGIN
    debt := p_amount;
    from_purchased := 0;
    FOR v_grant IN
        SELECT l.operation_id, l.balance, l.type, l.expires_at <= p_now AS expired, sum(l.balance) OVER () AS total
        FROM credit_ledger l
        WHERE coalesce(l.org_id, l.user_id) = p_account AND l.balance <> 0
        ORDER BY l.priority, l.expires_at NULLS LAST, l.created_at, l.operation_id
    LOOP
        total := coalesce(total, v_grant.total);
        IF v_grant.balance < 0 THEN
            CONTINUE;
        END IF;
        IF v_grant.expired THEN
            total := total - v_grant.balance;
            UPDATE credit_ledger SET balance = 0 WHERE operation_id = v_grant.operation_id;
            INSERT INTO credit_entry (account_id, operation_id, kind, amount, grant_balance_after, balance_after, cause, created_at)
            VALUES (p_account, v_grant.operation_id, 'expiry', -v_grant.balance, 0, total, 'expiry', p_now);
        ELSIF debt > 0 AND (
            p_funding = 'any' OR p_funding = 'credits' AND v_grant.type <> 'subscription'
            OR p_funding = 'plan' AND v_grant.type IN ('subscription', 'plan')
        ) THEN
            v_part := least(debt, v_grant.balance);
            debt := debt - v_part;
            total := total - v_part;
            IF v_grant.type = 'purchase' THEN
                from_purchased := from_purchased + v_part;
            END IF;
            UPDATE credit_ledger SET balance = v_grant.balance - v_part WHERE operation_id = v_grant.operation_id;
            INSERT INTO credit_entry
                (account_id, operation_id, kind, amount, grant_balance_after, balance_after, cause, message_id, created_at)
            VALUES
                (p_account, v_grant.operation_id, 'debit', -v_part, v_grant.balance - v_part, total, p_cause, p_message, p_now);
        END IF;
    END LOOP;
    total := coalesce(total, 0) - debt;
    IF debt = 0 THEN
        RETURN;
    END IF;
    SELECT l.operation_id, l.balance INTO v_grant FROM credit_ledger l
    WHERE (l.user_id = p_account AND l.org_id IS NULL OR l.org_id = p_account)
        AND (l.type = 'subscription') = (p_funding = 'plan')
        -- the next block clears the debt of one that expired during the call
        AND (l.expires_at IS NULL OR l.expires_at > p_now OR l.balance < 0 OR p_funding = 'plan')
    ORDER BY l.priority DESC, l.expires_at DESC NULLS FIRST, l.created_at DESC, l.operation_id DESC
    LIMIT 1;
    IF NOT FOUND THEN
        INSERT INTO credit_ledger
            (operation_id, user_id, org_id, principal, balance, type, description, priority, created_at)
        SELECT
            -- two accounts may know a cause by one name
            CASE WHEN EXISTS (SELECT FROM credit_ledger l WHERE l.operation_id = 'debt-' || p_cause)
                THEN concat_ws('-', 'debt', p_account, p_cause) ELSE 'debt-' || p_cause END,
            coalesce(a.user_id, o.owner_id), a.org_id, 0, 0,
            CASE WHEN a.org_id IS NULL THEN 'admin'::grant_type ELSE 'organization'::grant_type END,
            'Use beyond the balance', CASE WHEN a.org_id IS NULL THEN 60 ELSE 70 END, p_now
        FROM credit_account a LEFT JOIN org o ON o.id = a.org_id
        WHERE a.id = p_account
        RETURNING operation_id, balance INTO v_grant;
    END IF;
    UPDATE credit_ledger SET balance = v_grant.balance - debt WHERE operation_id = v_grant.operation_id;
    INSERT INTO credit_entry
        (account_id, operation_id, kind, amount, grant_balance_after, balance_after, cause, message_id, created_at)
    VALUES
        (p_account, v_grant.operation_id, 'debit', -debt, v_grant.balance - debt, total, p_cause, p_message, p_now);
END $$;
