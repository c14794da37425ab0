-- Start a block of a person's plan, if none is live or the plan's limit has grown, with the smallest remainder of all
-- windows. It ends with the first window; earlier if a window with a smaller remainder resets earlier, or if the subscription
-- ends. The caller holds the account's lock.
CREATE OR REPLACE FUNCTION plan_block_start(p_user text, p_now timestamptz) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_subscription record;
    v_block record;
    v_operation text;
BEGIN
    SELECT s.stripe_subscription_id AS id, p.name,
        CASE WHEN s.cancel_at_period_end THEN s.billing_period_end END AS ends_at
    INTO v_subscription
    FROM plan_subscription(p_user, p_now) s JOIN plan p ON p.id = s.plan_id;
    SELECT
        min(w.unallotted) AS credits, max(w.label) FILTER (WHERE w.number = 1) AS label,
        least(
            max(coalesce(w.resets_at, p_now + w.hours * interval '1 hour')) FILTER (WHERE w.number = 1),
            min(w.resets_at) FILTER (WHERE w.unallotted < w.first),
            v_subscription.ends_at
        ) AS ends_at
    INTO v_block
    FROM (
        SELECT w.*, min(w.unallotted) FILTER (WHERE w.number = 1) OVER () AS first FROM plan_windows(p_user, p_now) w
    ) w;
    IF v_block.credits IS NULL OR v_block.credits <= 0 THEN
        RETURN;
    END IF;
    v_operation := concat_ws('-', 'block', v_subscription.id, floor(extract(epoch FROM p_now) * 1000)::bigint);
    PERFORM credit_grant(v_operation, p_user, NULL, v_block.credits, 'subscription', 10,
        concat(v_subscription.name, ', ', v_block.label), v_block.ends_at, p_now);
    UPDATE credit_ledger SET stripe_subscription_id = v_subscription.id WHERE operation_id = v_operation;
END $$;
