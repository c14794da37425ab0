-- What each funding of a call may spend, and how much of it the holds of other calls than p_request reserve. A call spends
-- blocks first, then included credits, so holds reserve them in that order. Debt of blocks only lowers later blocks.
CREATE OR REPLACE FUNCTION credit_available(p_account text, p_request text, p_now timestamptz)
RETURNS TABLE (
    blocks bigint, plan bigint, plan_held bigint, credits bigint, credits_held bigint, every bigint, every_held bigint
)
LANGUAGE sql STABLE AS $$
    SELECT
        g.blocks,
        g.blocks + greatest(g.included, 0), h.plan + h.every + least(h.credits, greatest(g.included, 0)),
        g.credits, h.credits + greatest(h.plan + h.every - g.blocks, 0),
        g.blocks + g.credits, h.plan + h.every + h.credits
    FROM (
        SELECT
            greatest(coalesce(sum(g.balance) FILTER (WHERE g.type = 'subscription'), 0)::bigint, 0) AS blocks,
            coalesce(sum(g.balance) FILTER (WHERE g.type = 'plan'), 0)::bigint AS included,
            coalesce(sum(g.balance) FILTER (WHERE g.type <> 'subscription'), 0)::bigint AS credits
        FROM credit_active_grants(p_account, p_now) g
        WHERE g.balance <> 0
    ) g, (
        SELECT
            coalesce(sum(h.amount) FILTER (WHERE h.funding = 'plan'), 0)::bigint AS plan,
            coalesce(sum(h.amount) FILTER (WHERE h.funding = 'credits'), 0)::bigint AS credits,
            coalesce(sum(h.amount) FILTER (WHERE h.funding = 'any'), 0)::bigint AS every
        FROM credit_hold h
        WHERE h.account_id = p_account AND h.state = 'live' AND h.expires_at > p_now AND h.request_id <> p_request
    ) h
$$;
