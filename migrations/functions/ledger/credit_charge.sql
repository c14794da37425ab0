-- Charge credits for anything but a model call, once per cause. A plan's blocks pay for model calls only.
CREATE OR REPLACE FUNCTION credit_charge(
    p_user text, p_org text, p_amount bigint, p_cause text, p_now timestamptz,
    OUT charged boolean, OUT amount bigint, OUT total bigint, OUT from_purchased bigint, OUT debt bigint
)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_account text := credit_account_lock(p_user, p_org);
BEGIN
    SELECT -sum(e.amount) INTO amount FROM credit_entry e
    WHERE e.account_id = v_account AND e.cause = p_cause AND e.kind = 'debit' AND e.message_id IS NULL;
    charged := amount IS NULL;
    IF charged THEN
        amount := p_amount;
        SELECT t.total, t.from_purchased, t.debt INTO total, from_purchased, debt
        FROM credit_take(v_account, p_amount, p_cause, NULL, p_now, 'credits') t;
    ELSE
        from_purchased := 0;
        debt := 0;
        total := credit_net(v_account, p_now);
    END IF;
END $$;
