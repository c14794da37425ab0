-- Choose the funding of a call of a person whose subscription's plan is p_plan, and start a block if one is needed. Outcome
-- NULL: the call may be admitted if p_funding's balance less held covers it. The caller holds the account's lock.
--
-- p_continue is the person's preference to continue with credits when the plan is used up or does not cover the model. For a
-- plan without windows, calls to covered models are always paid with credits.
CREATE OR REPLACE FUNCTION plan_admit(
    p_user text, p_plan text, p_continue boolean, p_request text, p_model text, p_route_model text, p_minimum bigint,
    p_now timestamptz,
    OUT outcome text, OUT funding text, OUT balance bigint, OUT held bigint, OUT limit_label text, OUT limit_resets timestamptz
)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_plan plan;
    v_available record;
    v_started timestamptz;
BEGIN
    SELECT * INTO v_plan FROM plan p WHERE p.id = p_plan;
    SELECT * INTO v_available FROM credit_available(p_user, p_request, p_now);
    IF v_plan.models IS NOT NULL
        AND NOT model_matches(ARRAY(SELECT jsonb_array_elements_text(v_plan.models)), p_model, p_route_model) THEN
        IF NOT p_continue THEN
            outcome := 'model_not_in_plan';
            RETURN;
        END IF;
        funding := 'credits';
    ELSIF NOT EXISTS (SELECT FROM plan_window w WHERE w.plan_id = p_plan) THEN
        funding := 'any';
    ELSE
        IF v_available.blocks = 0 THEN
            PERFORM plan_block_start(p_user, p_now);
            SELECT * INTO v_available FROM credit_available(p_user, p_request, p_now);
        END IF;
        funding := CASE WHEN NOT p_continue THEN 'plan' WHEN v_available.credits > 0 THEN 'any' ELSE 'plan' END;
    END IF;
    balance := CASE funding
        WHEN 'plan' THEN v_available.plan WHEN 'credits' THEN v_available.credits ELSE v_available.every
    END;
    held := CASE funding
        WHEN 'plan' THEN v_available.plan_held WHEN 'credits' THEN v_available.credits_held ELSE v_available.every_held
    END;
    IF funding = 'plan' AND balance < greatest(p_minimum, 1) THEN
        SELECT w.label, w.resets_at INTO limit_label, limit_resets FROM plan_windows(p_user, p_now) w
        WHERE w.unallotted <= 0 OR w.credits - w.used < p_minimum
        ORDER BY w.resets_at DESC NULLS LAST, w.number DESC LIMIT 1;
        outcome := CASE WHEN NOT p_continue THEN 'plan_limit' WHEN balance <= 0 THEN 'out_of_credits' ELSE 'insufficient' END;
        RETURN;
    END IF;
    IF balance <= 0 THEN
        outcome := 'out_of_credits';
    ELSIF v_plan.requests_per_minute IS NOT NULL AND funding <> 'credits' THEN
        SELECT c.started_at INTO v_started
        FROM (
            SELECT c.started_at FROM gateway_call c
            -- refused calls have no provider
            WHERE c.account_id = p_user AND c.started_at > p_now - interval '1 minute' AND c.provider IS NOT NULL
            UNION ALL
            SELECT h.created_at FROM credit_hold h
            WHERE h.account_id = p_user AND h.state = 'live' AND h.request_id <> p_request
                AND h.created_at > p_now - interval '1 minute'
        ) c
        ORDER BY c.started_at DESC OFFSET v_plan.requests_per_minute - 1 LIMIT 1;
        IF FOUND THEN
            outcome := 'plan_rate';
            limit_label := v_plan.requests_per_minute::text;
            limit_resets := v_started + interval '1 minute';
        END IF;
    END IF;
END $$;
