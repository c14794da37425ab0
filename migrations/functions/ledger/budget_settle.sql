-- Count a settled call in the budgets in force for it. p_now is when it finished. The caller holds the account's lock.
CREATE OR REPLACE FUNCTION budget_settle(
    p_account text, p_user text, p_key text, p_team text, p_agent text, p_run text, p_credits bigint, p_byok boolean,
    p_now timestamptz
)
RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_root text;
BEGIN
    PERFORM FROM budget b WHERE b.account_id = p_account AND b.ended_at IS NULL LIMIT 1;
    IF NOT FOUND OR p_credits = 0 THEN
        RETURN;
    END IF;
    IF p_run IS NOT NULL THEN
        SELECT r.root_run_id INTO v_root FROM agent_run r WHERE r.id = p_run;
    END IF;
    INSERT INTO budget_spend AS u (budget_id, subject, window_start, spent, warned_at)
    SELECT
        b.id, s.subject, budget_window(b.period, p_now, a.time_zone), p_credits,
        CASE WHEN p_credits * 100 >= b.limit_credits * b.warn_percent THEN p_now END
    FROM credit_account a
    JOIN budget b ON b.account_id = a.id AND b.ended_at IS NULL
    CROSS JOIN LATERAL (
        SELECT CASE b.level
            WHEN 'account' THEN '' WHEN 'team' THEN p_team WHEN 'member' THEN p_user WHEN 'key' THEN p_key
            WHEN 'agent' THEN budget_agent(p_agent) ELSE v_root
        END AS subject
    ) s
    WHERE a.id = p_account AND (b.subject IS NULL OR b.subject = s.subject) AND s.subject IS NOT NULL
        AND (b.count_byok OR NOT p_byok) AND (b.period <> 'total' OR p_now >= b.created_at)
    ON CONFLICT (budget_id, subject, window_start) DO UPDATE SET
        spent = u.spent + excluded.spent,
        warned_at = CASE
            WHEN u.warned_at IS NULL AND (u.spent + excluded.spent) * 100 >= (
                SELECT b.limit_credits * b.warn_percent FROM budget b WHERE b.id = u.budget_id
            ) THEN p_now ELSE u.warned_at
        END;
END $$;
