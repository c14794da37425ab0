-- Describe the budget, or envelope of the run, that leaves a hold less than p_needed credits, and as its chain all that are in
-- force; NULL if none refuses. Of several, one that no call in flight holds, then the one that resets last. `approvers` are
-- the names of up to three people who can raise it: owners and admins, or the person.
CREATE OR REPLACE FUNCTION budget_refusal(p_hold credit_hold, p_needed bigint, p_now timestamptz) RETURNS jsonb
LANGUAGE sql AS $$
    WITH limits AS MATERIALIZED (
        SELECT
            l.budget_id, l.level, l.subject, l.period, l.hard, l.credits + l.raised AS credits, l.raised, l.spent, l.held, l.free,
            l.resets_at, l.hard AND l.free < p_needed AS blocks
        FROM budget_limits(
            p_hold.account_id, p_hold.user_id, p_hold.key_id, p_hold.team_id, p_hold.agent_id, p_hold.root_run_id,
            p_hold.request_id, p_now
        ) l
        WHERE l.count_byok OR p_hold.funding <> 'byok'
        UNION ALL
        SELECT NULL, 'run', e.run_id, 'total', true, e.credits, 0, e.spent + e.reserved, e.held, e.free, NULL, e.free < p_needed
        FROM run_budget_left(p_hold.envelope_run_id, p_hold.request_id, p_now) e
    ), chain AS (
        SELECT jsonb_agg(
            to_jsonb(l) - 'blocks' || jsonb_build_object('name', budget_subject_name(p_hold.account_id, l.level, l.subject))
            ORDER BY l.blocks DESC, l.free + l.held >= p_needed, l.resets_at DESC, l.level
        ) AS limits
        FROM limits l HAVING bool_or(l.blocks)
    )
    SELECT c.limits -> 0 || jsonb_build_object(
        'needed', p_needed, 'chain', c.limits, 'approvers', (
            SELECT coalesce(jsonb_agg(p.name), '[]') FROM (
                SELECT coalesce(nullif(u.name, ''), u.email) AS name
                FROM org_member m JOIN "user" u ON u.id = m.user_id
                WHERE m.org_id = p_hold.account_id AND m.role IN ('owner', 'admin')
                ORDER BY m.role, u.name LIMIT 3
            ) p
        )
    )
    FROM chain c
$$;
