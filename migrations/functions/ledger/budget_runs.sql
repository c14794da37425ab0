-- The five runs that spent most of a budget by one subject since p_since; NULL stands for calls without a run.
CREATE OR REPLACE FUNCTION budget_runs(p_budget budget, p_subject text, p_since timestamptz)
RETURNS TABLE (id text, agent_id text, credits bigint, calls bigint)
LANGUAGE sql STABLE AS $$
    SELECT r.id, r.agent_id, sum(m.credits)::bigint, count(*)
    FROM message m
    JOIN gateway_call g ON g.message_id = m.id AND g.state = 'settled'
    LEFT JOIN agent_run r ON r.id = g.run_id
    WHERE coalesce(m.org_id, m.user_id) = p_budget.account_id AND m.finished_at >= p_since AT TIME ZONE 'UTC'
        AND (p_budget.count_byok OR NOT m.byok) AND CASE p_budget.level
            WHEN 'account' THEN true WHEN 'team' THEN m.team_id = p_subject WHEN 'member' THEN m.user_id = p_subject
            WHEN 'key' THEN g.key_id = p_subject WHEN 'agent' THEN budget_agent(m.agent_id) = p_subject
            ELSE r.root_run_id = p_subject
        END
    GROUP BY r.id, r.agent_id
    ORDER BY 3 DESC, 1
    LIMIT 5
$$;
