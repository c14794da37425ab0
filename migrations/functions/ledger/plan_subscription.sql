-- The subscription whose plan covers a person's calls at p_now: trialing, active, or past due for less than three days. A
-- period that has ended counts as renewed for three days, until Stripe's state is fetched.
CREATE OR REPLACE FUNCTION plan_subscription(p_user text, p_now timestamptz) RETURNS SETOF subscription
LANGUAGE sql STABLE AS $$
    SELECT s.* FROM subscription s
    WHERE s.user_id = p_user AND s.plan_id IS NOT NULL AND s.status IN ('trialing', 'active', 'past_due')
        AND p_now < interval '3 days' + CASE
            WHEN s.status = 'past_due' AND s.billing_period_end > p_now THEN s.billing_period_start
            ELSE s.billing_period_end
        END
        AND (p_now < s.billing_period_end OR NOT s.cancel_at_period_end)
$$;
