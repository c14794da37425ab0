-- Count anew what was spent of a budget in the window that contains p_now: after it was created, or counts other calls than
-- before. The caller holds the account's lock.
CREATE OR REPLACE FUNCTION budget_fill(p_budget text, p_now timestamptz) RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    v_budget budget;
    v_start timestamptz;
BEGIN
    UPDATE budget b SET counted_since = p_now WHERE b.id = p_budget RETURNING * INTO v_budget;
    SELECT budget_window(v_budget.period, p_now, a.time_zone) INTO v_start
    FROM credit_account a WHERE a.id = v_budget.account_id;
    UPDATE budget_spend u SET spent = 0 WHERE u.budget_id = p_budget AND u.window_start >= v_start;
    INSERT INTO budget_spend AS u (budget_id, subject, window_start, spent, warned_at)
    SELECT
        p_budget, s.subject, s.window_start, s.spent,
        CASE WHEN s.spent * 100 >= v_budget.limit_credits * v_budget.warn_percent THEN p_now END
    FROM budget_spent(v_budget, p_now) s
    ON CONFLICT (budget_id, subject, window_start) DO UPDATE SET spent = excluded.spent;
END $$;
