-- The budgets in force for a call of this person, key, team, agent and run (its root), with what is left of each at p_now:
-- the limit and what it was raised by, less what was spent in the window and what calls in flight other than p_request hold.
-- NULL for a subject: budgets of that level do not apply.
CREATE OR REPLACE FUNCTION budget_limits(
    p_account text, p_user text, p_key text, p_team text, p_agent text, p_root_run text, p_request text, p_now timestamptz
)
RETURNS TABLE (
    budget_id text, level text, subject text, period text, hard boolean, warn_percent int, count_byok boolean,
    credits bigint, raised bigint, spent bigint, held bigint, free bigint, resets_at timestamptz
)
LANGUAGE sql STABLE AS $$
    SELECT
        b.id, b.level, s.subject, b.period, b.hard, b.warn_percent, b.count_byok,
        b.limit_credits, r.raised, u.spent, h.held,
        b.limit_credits + r.raised - u.spent - h.held,
        budget_resets(b.period, p_now, a.time_zone)
    FROM credit_account a
    JOIN budget b ON b.account_id = a.id AND b.ended_at IS NULL
    CROSS JOIN LATERAL (
        SELECT CASE b.level
            WHEN 'account' THEN '' WHEN 'team' THEN p_team WHEN 'member' THEN p_user WHEN 'key' THEN p_key
            WHEN 'agent' THEN budget_agent(p_agent) ELSE p_root_run
        END AS subject
    ) s
    CROSS JOIN (
        SELECT
            coalesce(sum(h.amount), 0)::bigint AS account,
            coalesce(sum(h.amount) FILTER (WHERE h.team_id = p_team), 0)::bigint AS team,
            coalesce(sum(h.amount) FILTER (WHERE h.user_id = p_user), 0)::bigint AS member,
            coalesce(sum(h.amount) FILTER (WHERE h.key_id = p_key), 0)::bigint AS key,
            coalesce(sum(h.amount) FILTER (WHERE budget_agent(h.agent_id) = budget_agent(p_agent)), 0)::bigint
                AS agent,
            coalesce(sum(h.amount) FILTER (WHERE h.root_run_id = p_root_run), 0)::bigint AS run,
            bool_or(h.funding = 'byok') AS byok
        FROM credit_hold h
        WHERE h.account_id = p_account AND h.state = 'live' AND h.expires_at > p_now AND h.request_id <> p_request
    ) every
    CROSS JOIN LATERAL (
        SELECT CASE b.level
            WHEN 'account' THEN every.account WHEN 'team' THEN every.team WHEN 'member' THEN every.member
            WHEN 'key' THEN every.key WHEN 'agent' THEN every.agent ELSE every.run
        END - CASE WHEN every.byok AND NOT b.count_byok THEN (
            SELECT coalesce(sum(h.amount), 0)::bigint FROM credit_hold h
            WHERE h.account_id = p_account AND h.state = 'live' AND h.expires_at > p_now AND h.request_id <> p_request
                AND h.funding = 'byok' AND CASE b.level
                    WHEN 'account' THEN true WHEN 'team' THEN h.team_id = p_team WHEN 'member' THEN h.user_id = p_user
                    WHEN 'key' THEN h.key_id = p_key WHEN 'agent' THEN budget_agent(h.agent_id) = budget_agent(p_agent)
                    ELSE h.root_run_id = p_root_run
                END
        ) ELSE 0 END AS held
    ) h
    -- a subquery looks up one row; a join might read the whole table, whose statistics lag behind
    CROSS JOIN LATERAL (
        SELECT coalesce((
            SELECT w.spent FROM budget_spend w
            WHERE w.budget_id = b.id AND w.subject = s.subject
                AND w.window_start = budget_window(b.period, p_now, a.time_zone)
        ), 0) AS spent OFFSET 0
    ) u
    CROSS JOIN LATERAL (
        SELECT CASE WHEN b.raised_until > p_now THEN (
            SELECT coalesce(sum(r.amount), 0)::bigint FROM budget_raise r
            WHERE r.budget_id = b.id AND r.subject IN ('', s.subject) AND r.starts_at <= p_now AND r.ends_at > p_now
                AND (r.run_id IS NULL OR r.run_id = p_root_run)
        ) ELSE 0 END AS raised
    ) r
    WHERE a.id = p_account AND (b.subject IS NULL OR b.subject = s.subject) AND s.subject IS NOT NULL
$$;
