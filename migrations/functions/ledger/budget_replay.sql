-- The calls of an account that finished since p_since, as a budget would have decided about them: refused if their credits do not
-- fit beside those of the calls before them in the window. Calls in flight at once are taken one after the other.
CREATE OR REPLACE FUNCTION budget_replay(p_budget budget, p_since timestamptz)
RETURNS TABLE (
    message_id text, finished_at timestamptz, subject text, user_id text, run_id text, model text, credits bigint, refused boolean
)
LANGUAGE sql STABLE AS $$
    SELECT d.message_id, d.finished_at, d.subject, d.user_id, d.run_id, d.model, d.credits, d.total = lag(d.total, 1, 0) OVER w
    FROM (
        SELECT c.*, w.starts_at, capped_sum(c.credits, p_budget.limit_credits) OVER (
            PARTITION BY c.subject, w.starts_at ORDER BY c.finished_at, c.message_id ROWS UNBOUNDED PRECEDING
        ) AS total
        FROM credit_account a CROSS JOIN LATERAL (
            SELECT
                m.id AS message_id, m.finished_at AT TIME ZONE 'UTC' AS finished_at, m.user_id, g.run_id, m.model,
                m.credits::bigint AS credits,
                CASE p_budget.level
                    WHEN 'account' THEN '' WHEN 'team' THEN m.team_id WHEN 'member' THEN m.user_id WHEN 'key' THEN g.key_id
                    WHEN 'agent' THEN budget_agent(m.agent_id)
                    ELSE (SELECT r.root_run_id FROM agent_run r WHERE r.id = g.run_id)
                END AS subject
            FROM message m JOIN gateway_call g ON g.message_id = m.id AND g.state = 'settled'
            WHERE coalesce(m.org_id, m.user_id) = p_budget.account_id AND (p_budget.count_byok OR NOT m.byok) AND m.credits > 0
                AND m.finished_at >= p_since AT TIME ZONE 'UTC'
        ) c
        CROSS JOIN LATERAL (SELECT budget_window(p_budget.period, c.finished_at, a.time_zone) AS starts_at) w
        WHERE a.id = p_budget.account_id AND c.subject IS NOT NULL
            AND (p_budget.subject IS NULL OR p_budget.subject = c.subject)
    ) d
    WINDOW w AS (PARTITION BY d.subject, d.starts_at ORDER BY d.finished_at, d.message_id)
$$;
