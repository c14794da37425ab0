-- Check the caller of a model call and hold credits, in the order of contract 5.2. p_hold NULL: check only. Rejects calls if
-- less than p_minimum is available, even if no other call is in flight. The key determines the account that pays:
-- the organisation session.org_id (a key exists only while its owner is a member), else the owner's personal account. If that
-- person's plan covers calls, plan_admit decides what pays; balance and held are those of the hold's funding.
CREATE OR REPLACE FUNCTION gateway_admit(
    p_token_hash text, p_request text, p_run text, p_require_run boolean, p_hold bigint, p_door text, p_model text,
    p_worker text, p_ttl_seconds int, p_free bigint, p_now timestamptz, p_minimum bigint DEFAULT 0,
    p_route_model text DEFAULT '',
    OUT outcome text, OUT user_id text, OUT org_id text, OUT agent_id text, OUT balance bigint, OUT held bigint,
    OUT next_reset timestamptz, OUT hold_expires timestamptz, OUT funding text, OUT limit_label text,
    OUT limit_resets timestamptz
)
LANGUAGE plpgsql SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    v_caller record;
    v_account text;
    v_status agent_run_status;
BEGIN
    SELECT s."userId", s.org_id, s.last_used_at, u.banned, u.next_quota_reset, u.fallback_to_a_la_carte, b.plan_id
    INTO v_caller
    FROM session s JOIN "user" u ON u.id = s."userId"
    LEFT JOIN LATERAL plan_subscription(s."userId", p_now) b ON s.org_id IS NULL
    WHERE s."sessionToken" = p_token_hash AND s.expires > p_now AT TIME ZONE 'UTC';
    IF NOT FOUND THEN
        outcome := 'unknown_key';
        RETURN;
    END IF;
    user_id := v_caller."userId";
    org_id := v_caller.org_id;
    v_account := coalesce(org_id, user_id);
    IF v_caller.banned THEN
        outcome := 'banned';
        RETURN;
    END IF;
    IF org_id IS NULL THEN
        next_reset := v_caller.next_quota_reset AT TIME ZONE 'UTC';
        IF next_reset IS NULL OR next_reset <= p_now THEN
            SELECT q.next_reset INTO next_reset FROM credit_quota(gateway_admit.user_id, p_free, p_now) q;
        END IF;
    END IF;
    IF p_hold IS NOT NULL THEN
        PERFORM credit_account_lock(gateway_admit.user_id, gateway_admit.org_id);
    END IF;
    funding := 'any';
    SELECT a.every, a.every_held INTO balance, held FROM credit_available(v_account, p_request, p_now) a;
    IF balance <= 0 AND v_caller.plan_id IS NULL THEN
        outcome := 'out_of_credits';
    ELSIF p_run IS NULL THEN
        IF p_require_run THEN
            outcome := 'no_run';
        END IF;
    ELSE
        SELECT r.agent_id, r.status INTO agent_id, v_status FROM agent_run r
        WHERE r.id = p_run AND r.user_id = gateway_admit.user_id AND r.org_id IS NOT DISTINCT FROM gateway_admit.org_id;
        IF NOT FOUND THEN
            outcome := 'run_not_found';
        ELSIF v_status <> 'running' THEN
            outcome := 'run_not_running';
        END IF;
    END IF;
    IF outcome IS NULL AND p_hold IS NOT NULL AND v_caller.plan_id IS NOT NULL THEN
        SELECT p.outcome, p.funding, p.balance, p.held, p.limit_label, p.limit_resets
        INTO outcome, funding, balance, held, limit_label, limit_resets
        FROM plan_admit(
            gateway_admit.user_id, v_caller.plan_id, v_caller.fallback_to_a_la_carte, p_request, p_model, p_route_model,
            p_minimum, p_now
        ) p;
    END IF;
    IF outcome IS NULL THEN
        IF p_hold IS NULL THEN
            outcome := 'checked';
        ELSIF balance - held < p_minimum OR balance - held < p_hold AND held > 0 THEN
            outcome := 'insufficient';
        ELSE
            outcome := 'admitted';
            hold_expires := p_now + make_interval(secs => p_ttl_seconds);
            INSERT INTO credit_hold
                (request_id, account_id, user_id, run_id, model, door, amount, worker, state, funding, created_at, expires_at)
            VALUES
                (p_request, v_account, gateway_admit.user_id, p_run, p_model, p_door, p_hold, p_worker,
                 'live', gateway_admit.funding, p_now, hold_expires)
            ON CONFLICT (request_id) DO UPDATE
                SET state = 'live', lost_at = NULL, funding = excluded.funding, expires_at = excluded.expires_at;
        END IF;
    END IF;
    IF v_caller.last_used_at IS NULL OR v_caller.last_used_at < (p_now - interval '5 minutes') AT TIME ZONE 'UTC' THEN
        UPDATE session SET last_used_at = p_now AT TIME ZONE 'UTC' WHERE "sessionToken" = p_token_hash;
    END IF;
END $$;
