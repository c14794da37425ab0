-- The windows of a person's plan at p_now, shortest first, with the credits used in them. A limit_override replaces the
-- limits of the first two, and the length of the first.
--
-- The first window starts with a block: a grant of type subscription, which calls spend. Without one it has no start. The
-- others start at midnight UTC, counted from the day the billing period started; a window without hours is that period.
-- A block counts in the windows it was granted in. A new block gets at most what is unallotted in each window: its limit
-- without what was used and what is left of live blocks.
CREATE OR REPLACE FUNCTION plan_windows(p_user text, p_now timestamptz)
RETURNS TABLE (
    number int, name text, label text, hours int, credits bigint, used bigint, unallotted bigint,
    starts_at timestamptz, resets_at timestamptz
)
LANGUAGE sql STABLE AS $$
    WITH period AS (
        SELECT
            s.stripe_subscription_id AS subscription, s.plan_id, p.interval,
            CASE WHEN r.renewed THEN s.billing_period_end ELSE s.billing_period_start END AS starts_at,
            CASE WHEN r.renewed THEN s.billing_period_end + ('1 ' || p.interval)::interval ELSE s.billing_period_end END
                AS resets_at
        FROM plan_subscription(p_user, p_now) s
        JOIN plan p ON p.id = s.plan_id
        CROSS JOIN LATERAL (SELECT s.billing_period_end <= p_now AS renewed) r
    ), plan_limits AS (
        SELECT w.*, (row_number() OVER (ORDER BY w.hours NULLS LAST, w.name))::int AS number
        FROM plan_window w WHERE w.plan_id = (SELECT plan_id FROM period)
    ), limits AS (
        SELECT
            l.number, l.name,
            CASE WHEN l.number = 1 AND o.user_id IS NOT NULL THEN o.block_duration_hours ELSE l.hours END AS hours,
            CASE l.number
                WHEN 1 THEN coalesce(o.credits_per_block, l.credits)
                WHEN 2 THEN coalesce(o.weekly_credit_limit, l.credits)
                ELSE l.credits
            END AS credits
        FROM plan_limits l LEFT JOIN limit_override o ON o.user_id = p_user
    ), windows AS (
        SELECT
            l.*, p.subscription, p.interval, l.number = 1 AND l.hours IS NOT NULL AS by_block,
            coalesce(date_bin(l.hours * interval '1 hour', p_now, m.midnight), p.starts_at) AS starts_at,
            coalesce(date_bin(l.hours * interval '1 hour', p_now, m.midnight) + l.hours * interval '1 hour', p.resets_at)
                AS resets_at
        FROM limits l CROSS JOIN period p
        CROSS JOIN LATERAL (SELECT date_trunc('day', p.starts_at, 'UTC') AS midnight) m
    )
    SELECT
        w.number, w.name,
        CASE
            WHEN w.hours IS NULL THEN w.interval || 'ly'
            WHEN w.number > 1 AND w.hours = 24 THEN 'daily'
            WHEN w.number > 1 AND w.hours = 168 THEN 'weekly'
            ELSE CASE WHEN w.hours % 24 = 0 THEN w.hours / 24 || '-day' ELSE w.hours || '-hour' END
                || CASE WHEN w.by_block THEN ' session' ELSE '' END
        END,
        w.hours, w.credits, b.used, w.credits - b.allotted,
        CASE WHEN w.by_block THEN b.starts_at ELSE w.starts_at END,
        CASE WHEN w.by_block THEN b.resets_at ELSE w.resets_at END
    FROM windows w CROSS JOIN LATERAL (
        SELECT
            coalesce(sum(x.spent), 0)::bigint AS used,
            coalesce(sum(CASE WHEN l.expires_at > p_now THEN greatest(l.principal, x.spent) ELSE x.spent END), 0)::bigint
                AS allotted,
            min(l.created_at) AS starts_at, max(l.expires_at) AS resets_at
        FROM credit_ledger l CROSS JOIN LATERAL (
            SELECT l.principal - l.balance + CASE WHEN l.expires_at > p_now THEN 0 ELSE coalesce((
                SELECT sum(e.amount) FROM credit_entry e WHERE e.operation_id = l.operation_id AND e.kind = 'expiry'
            ), 0) END AS spent
        ) x
        WHERE l.user_id = p_user AND l.org_id IS NULL AND l.type = 'subscription'
            AND l.stripe_subscription_id = w.subscription
            -- a block lives as long as the first window; an override may have shortened that
            AND l.created_at >= CASE
                WHEN w.by_block THEN p_now - greatest(w.hours * interval '1 hour', '31 days') ELSE w.starts_at
            END
            AND (l.expires_at > p_now OR NOT w.by_block)
    ) b
$$;
