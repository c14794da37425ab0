-- Check the caller of a model call and hold credits, in the order of contract 5.2. p_hold NULL: check only. Rejects calls if
-- less than p_minimum is available, even if no other call is in flight. gateway_payer chooses the account that pays, if the key is
-- an organisation's, or the call or its run names an organisation (p_org) or a repository (p_repo); else it is the key's owner. An
-- organisation that pays for a repository and has less than p_minimum leaves the call to the person. A stopped account refuses all
-- calls (account_stop). If that person's plan covers
-- calls, plan_admit decides what pays; balance and held are those of the hold's funding. A person's run without calls becomes the
-- organisation's with the first call that it pays for. Budgets are checked last (budget_admit); p_run_budget gives the run an
-- envelope of that many credits, unless it has one. Refused calls, which have no provider, do not count as calls of a run. p_byok:
-- the caller's own provider key pays, and the hold counts in budgets only. p_ip: the caller's address, of the key's last use.
-- p_secret is the hash of a key with an id of its own (api_key): p_scope is what the call needs of it, and p_drops names fields of
-- the request that would be dropped; a test key holds nothing and pays nothing. rules are what the gateway enforces of it.
CREATE OR REPLACE FUNCTION gateway_admit(
    p_token_hash text, p_request text, p_run text, p_require_run boolean, p_hold bigint, p_door text, p_model text,
    p_worker text, p_ttl_seconds int, p_free bigint, p_now timestamptz, p_minimum bigint DEFAULT 0,
    p_route_model text DEFAULT '', p_org text DEFAULT NULL, p_repo text DEFAULT NULL,
    p_byok boolean DEFAULT false, p_run_budget bigint DEFAULT NULL, p_ip text DEFAULT NULL,
    p_secret text DEFAULT NULL, p_scope text DEFAULT NULL, p_drops text[] DEFAULT NULL,
    OUT outcome text, OUT user_id text, OUT org_id text, OUT agent_id text, OUT balance bigint, OUT held bigint,
    OUT next_reset timestamptz, OUT hold_expires timestamptz, OUT funding text, OUT limit_label text,
    OUT limit_resets timestamptz, OUT team_id text, OUT paid_by text, OUT repo_url text, OUT refusal jsonb,
    OUT budget jsonb, OUT run_left bigint, OUT rules jsonb
)
LANGUAGE plpgsql SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    v_caller record;
    v_account text;
    v_hold credit_hold;
    v_stop bigint;
    v_key api_key;
BEGIN
    IF p_secret IS NOT NULL OR starts_with(p_token_hash, 'sk_') THEN
        SELECT k.* INTO v_key FROM api_key k
        WHERE k.key_id = p_token_hash
            AND (k.hashed_key = p_secret OR k.prev_hashed_key = p_secret AND k.prev_valid_until > p_now);
        IF NOT FOUND THEN
            outcome := 'unknown_key';
            RETURN;
        END IF;
    END IF;
    SELECT s."userId", s.org_id, s.team_id, s.last_used_at, u.banned, u.next_quota_reset, u.fallback_to_a_la_carte, b.plan_id,
        r.id AS run_id, r.org_id AS run_org, r.paid_by AS run_paid_by, r.repo_url AS run_repo, r.agent_id, r.status,
        r.root_run_id, r.envelope_run_id
    INTO v_caller
    FROM session s JOIN "user" u ON u.id = s."userId"
    LEFT JOIN LATERAL plan_subscription(s."userId", p_now) b ON s.org_id IS NULL
    LEFT JOIN agent_run r ON r.id = p_run AND r.user_id = s."userId"
    WHERE s."sessionToken" = p_token_hash AND s.expires > p_now AT TIME ZONE 'UTC' AND s.disabled_at IS NULL;
    IF NOT FOUND THEN
        outcome := CASE WHEN v_key.key_id IS NOT NULL AND EXISTS (
            SELECT FROM session s WHERE s."sessionToken" = p_token_hash AND s.disabled_at IS NULL
        ) THEN 'key_expired' ELSE 'unknown_key' END;
        RETURN;
    END IF;
    user_id := v_caller."userId";
    IF v_caller.banned THEN
        outcome := 'banned';
        RETURN;
    END IF;
    IF v_key.key_id IS NOT NULL THEN
        rules := jsonb_build_object('rpm', v_key.rpm_limit, 'tpm', v_key.tpm_limit, 'strict', v_key.is_strict);
        outcome := api_key_refusal(v_key, p_scope, p_model, p_route_model, v_caller.agent_id, p_ip, p_drops);
        IF outcome IS NOT NULL THEN
            refusal := jsonb_build_object('scope', p_scope, 'agent', v_caller.agent_id, 'fields', p_drops);
            RETURN;
        END IF;
        IF v_key.environment = 'test' THEN
            p_hold := NULL;
            p_byok := false;
        END IF;
    END IF;
    repo_url := coalesce(p_repo, v_caller.run_repo);
    IF v_caller.org_id IS NOT NULL OR p_org IS NOT NULL OR repo_url IS NOT NULL OR v_caller.run_paid_by IS NOT NULL THEN
        SELECT p.outcome, p.org_id, p.team_id, p.paid_by, p.refusal INTO outcome, org_id, team_id, paid_by, refusal
        FROM gateway_payer(
            gateway_admit.user_id, p_token_hash, v_caller.org_id, v_caller.team_id, p_org, gateway_admit.repo_url,
            CASE WHEN v_caller.run_paid_by IS NOT NULL THEN v_caller.run_org END, v_caller.run_paid_by, p_model, p_route_model
        ) p;
        IF outcome IS NOT NULL THEN
            RETURN;
        END IF;
    END IF;
    IF org_id IS NOT NULL THEN
        v_account := org_id;
        IF p_hold IS NOT NULL THEN
            IF paid_by = 'repository' THEN
                -- the person may have to pay: lock both in the order of gateway_admit_many
                PERFORM FROM credit_account a WHERE a.id IN (gateway_admit.org_id, gateway_admit.user_id) ORDER BY a.id FOR UPDATE;
            END IF;
            PERFORM credit_account_lock(gateway_admit.user_id, gateway_admit.org_id);
        END IF;
        SELECT a.every, a.every_held INTO balance, held FROM credit_available(v_account, p_request, p_now) a;
        SELECT a.stop_id INTO v_stop FROM credit_account a WHERE a.id = v_account;
        IF paid_by = 'repository' AND balance < greatest(p_minimum, 1) AND v_stop IS NULL THEN
            paid_by := 'fallback:out_of_credits';
            org_id := NULL;
            team_id := NULL;
        ELSE
            v_caller.plan_id := NULL;
        END IF;
    END IF;
    IF org_id IS NULL THEN
        v_account := user_id;
        next_reset := v_caller.next_quota_reset AT TIME ZONE 'UTC';
        IF next_reset IS NULL OR next_reset <= p_now THEN
            SELECT q.next_reset INTO next_reset FROM credit_quota(gateway_admit.user_id, p_free, p_now) q;
        END IF;
        IF p_hold IS NOT NULL THEN
            PERFORM credit_account_lock(gateway_admit.user_id, NULL);
        END IF;
        SELECT a.every, a.every_held INTO balance, held FROM credit_available(v_account, p_request, p_now) a;
        SELECT a.stop_id INTO v_stop FROM credit_account a WHERE a.id = v_account;
    END IF;
    funding := 'any';
    IF v_stop IS NOT NULL THEN
        outcome := 'stopped';
        SELECT jsonb_build_object('by', t.stopped_by_name, 'at', t.stopped_at, 'org', o.name, 'slug', o.slug) INTO refusal
        FROM account_stop t LEFT JOIN org o ON o.id = v_account WHERE t.id = v_stop;
    ELSIF balance <= 0 AND v_caller.plan_id IS NULL AND v_key.environment IS DISTINCT FROM 'test' THEN
        outcome := 'out_of_credits';
    ELSIF v_key.concurrency_limit <= (
        SELECT count(*) FROM credit_hold h
        WHERE h.account_id = v_account AND h.state = 'live' AND h.expires_at > p_now AND h.key_id = p_token_hash
            AND h.request_id <> p_request
    ) THEN
        outcome := 'key_busy';
        refusal := jsonb_build_object('parallel', v_key.concurrency_limit);
    ELSIF p_run IS NULL THEN
        IF p_require_run THEN
            outcome := 'no_run';
        END IF;
    ELSIF v_caller.run_id IS NULL OR v_caller.run_org IS DISTINCT FROM org_id AND NOT coalesce(CASE
        WHEN v_caller.run_org IS NULL THEN paid_by <> 'key'
        WHEN org_id IS NULL THEN v_caller.run_paid_by = 'repository'
    END, false) THEN
        outcome := 'run_not_found';
    ELSE
        agent_id := v_caller.agent_id;
        IF v_caller.status <> 'running' THEN
            outcome := 'run_not_running';
        ELSIF p_run_budget IS NOT NULL AND p_hold IS NOT NULL AND v_caller.envelope_run_id IS DISTINCT FROM p_run THEN
            SELECT b.outcome, b.refusal INTO outcome, budget FROM run_budget_open(p_run, p_run_budget, 'call', p_now) b;
            v_caller.envelope_run_id := p_run;
        END IF;
    END IF;
    IF outcome IS NULL AND p_hold IS NOT NULL AND NOT p_byok AND v_caller.plan_id IS NOT NULL THEN
        SELECT p.outcome, p.funding, p.balance, p.held, p.limit_label, p.limit_resets
        INTO outcome, funding, balance, held, limit_label, limit_resets
        FROM plan_admit(
            gateway_admit.user_id, v_caller.plan_id, v_caller.fallback_to_a_la_carte, p_request, p_model, p_route_model,
            p_minimum, p_now
        ) p;
    END IF;
    IF outcome IS NULL THEN
        IF p_byok THEN
            funding := 'byok';
        END IF;
        IF p_hold IS NULL OR p_byok AND v_key.concurrency_limit IS NULL AND NOT EXISTS (
            SELECT FROM budget b WHERE b.account_id = v_account AND b.ended_at IS NULL AND b.count_byok
        ) THEN
            outcome := 'checked';
        ELSIF NOT p_byok AND (balance - held < p_minimum OR balance - held < p_hold AND held > 0) THEN
            outcome := 'insufficient';
        ELSE
            hold_expires := p_now + make_interval(secs => p_ttl_seconds);
            v_hold.request_id := p_request;
            v_hold.account_id := v_account;
            v_hold.user_id := gateway_admit.user_id;
            v_hold.run_id := p_run;
            v_hold.model := p_model;
            v_hold.door := p_door;
            v_hold.amount := p_hold;
            v_hold.worker := p_worker;
            v_hold.state := 'live';
            v_hold.created_at := p_now;
            v_hold.expires_at := hold_expires;
            v_hold.funding := gateway_admit.funding;
            v_hold.key_id := p_token_hash;
            v_hold.team_id := gateway_admit.team_id;
            v_hold.agent_id := gateway_admit.agent_id;
            v_hold.root_run_id := v_caller.root_run_id;
            v_hold.envelope_run_id := v_caller.envelope_run_id;
            SELECT b.outcome, b.refusal, b.envelope, b.run_left INTO outcome, budget, v_hold.envelope_run_id, run_left
            FROM budget_admit(v_hold, p_now) b;
            IF outcome IS NULL THEN
                outcome := 'admitted';
                INSERT INTO credit_hold SELECT v_hold.*
                ON CONFLICT (request_id) DO UPDATE
                    SET state = 'live', lost_at = NULL, funding = excluded.funding, expires_at = excluded.expires_at;
            END IF;
        END IF;
        IF p_run IS NOT NULL AND org_id IS NOT NULL AND v_caller.run_org IS NULL AND outcome IN ('admitted', 'checked') THEN
            UPDATE agent_run r SET org_id = gateway_admit.org_id, paid_by = gateway_admit.paid_by, repo_url = gateway_admit.repo_url
            WHERE r.id = p_run AND r.org_id IS NULL
                AND NOT EXISTS (
                    SELECT FROM gateway_call c WHERE c.run_id = p_run AND c.account_id = gateway_admit.user_id AND c.provider IS NOT NULL
                );
        END IF;
    END IF;
    IF v_caller.last_used_at IS NULL OR v_caller.last_used_at < (p_now - interval '5 minutes') AT TIME ZONE 'UTC' THEN
        UPDATE session SET last_used_at = p_now AT TIME ZONE 'UTC', last_used_ip = p_ip WHERE "sessionToken" = p_token_hash;
    END IF;
END $$;
