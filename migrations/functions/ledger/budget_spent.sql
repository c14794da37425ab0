-- What calls spent of a budget, by subject and window, counted from the messages. Of the windows since the one that contains
-- p_since; of a budget in total, since it was created.
CREATE OR REPLACE FUNCTION budget_spent(p_budget budget, p_since timestamptz)
RETURNS TABLE (subject text, window_start timestamptz, spent bigint)
LANGUAGE sql STABLE AS $$
    SELECT c.subject, w.starts_at, sum(c.credits)::bigint
    FROM credit_account a CROSS JOIN LATERAL (
        SELECT
            m.credits, m.finished_at AT TIME ZONE 'UTC' AS finished_at,
            CASE p_budget.level
                WHEN 'account' THEN '' WHEN 'team' THEN m.team_id WHEN 'member' THEN m.user_id WHEN 'key' THEN g.key_id
                WHEN 'agent' THEN budget_agent(m.agent_id)
                ELSE (SELECT r.root_run_id FROM agent_run r WHERE r.id = g.run_id)
            END AS subject
        FROM message m JOIN gateway_call g ON g.message_id = m.id AND g.state = 'settled'
        WHERE coalesce(m.org_id, m.user_id) = p_budget.account_id AND (p_budget.count_byok OR NOT m.byok) AND m.credits > 0
            -- a window may begin earlier than its name says: where summer time ends, up to an hour
            AND m.finished_at >= (CASE p_budget.period
                WHEN 'total' THEN p_budget.created_at ELSE budget_window(p_budget.period, p_since, a.time_zone) - interval '2 hours'
            END) AT TIME ZONE 'UTC'
    ) c
    CROSS JOIN LATERAL (SELECT budget_window(p_budget.period, c.finished_at, a.time_zone) AS starts_at) w
    WHERE a.id = p_budget.account_id AND c.subject IS NOT NULL
        AND (p_budget.subject IS NULL OR p_budget.subject = c.subject)
        AND w.starts_at >= budget_window(p_budget.period, p_since, a.time_zone)
    GROUP BY c.subject, w.starts_at
$$;
