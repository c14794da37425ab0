-- The ledger's verbs. Every credit that is added passes credit_grant, every credit that is taken passes credit_take.
--
-- Locks. Whatever changes an account holds the lock of its credit_account row, taken first; grants, holds,
-- messages, rollups and the user's quota date are written under it. Only holds are also changed without it, and
-- those statements wait for nothing while they hold a row (extend: one row; sweep: SKIP LOCKED).
--
-- Isolation. The functions rely on READ COMMITTED: the statement after the lock takes a new snapshot and sees all that
-- the former holder committed. credit_account_lock refuses anything stricter, where it would be the old picture.
--
-- An account's grants are the rows of credit_ledger with coalesce(org_id, user_id) = credit_account.id: what
-- an organisation bought is never spent for the buyer. A grant counts while it has not expired, and for ever while
-- its balance is negative: debt does not expire.
--
-- SQLSTATEs of our own: ST404 no such account, ST409 operation id of another account, ST403 revoking a debt.

CREATE INDEX idx_credit_ledger_spendable ON credit_ledger ((coalesce(org_id, user_id))) WHERE balance <> 0;
CREATE INDEX idx_credit_entry_charge ON credit_entry (account_id, cause) WHERE kind = 'debit' AND message_id IS NULL;

-- Rows that are updated by every call without a change to an index: room for the new version on the same page.
ALTER TABLE usage_rollup SET (fillfactor = 70);
ALTER TABLE credit_account SET (fillfactor = 70);


CREATE FUNCTION credit_account_lock(p_user text, p_org text) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    v_account text := coalesce(p_org, p_user);
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'the ledger is written in READ COMMITTED transactions only' USING ERRCODE = '25001';
    END IF;
    PERFORM FROM credit_account WHERE id = v_account FOR UPDATE;
    IF FOUND THEN
        RETURN v_account;
    END IF;
    IF p_org IS NULL THEN
        INSERT INTO credit_account (id, user_id) SELECT id, id FROM "user" WHERE id = p_user ON CONFLICT DO NOTHING;
    ELSE
        INSERT INTO credit_account (id, org_id) SELECT id, id FROM org WHERE id = p_org ON CONFLICT DO NOTHING;
    END IF;
    PERFORM FROM credit_account WHERE id = v_account FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no account %', v_account USING ERRCODE = 'ST404';
    END IF;
    RETURN v_account;
END $$;


-- What an account has at a moment: grants that count, less debt. Volatile: called under the lock, it has to see all
-- that the former holder committed.
CREATE FUNCTION credit_net(p_account text, p_now timestamptz) RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RETURN (
        SELECT coalesce(sum(l.balance), 0) FROM credit_ledger l
        WHERE coalesce(l.org_id, l.user_id) = p_account AND l.balance <> 0
            AND (l.expires_at IS NULL OR l.expires_at > p_now OR l.balance < 0)
    );
END $$;


-- Write off what has expired. Returns the credits lost and the number of grants.
CREATE FUNCTION credit_expire(p_account text, p_now timestamptz, OUT credits bigint, OUT grants int)
LANGUAGE plpgsql AS $$
DECLARE
    v_grant record;
    v_total bigint;
BEGIN
    credits := 0;
    grants := 0;
    PERFORM FROM credit_account WHERE id = p_account FOR UPDATE;
    FOR v_grant IN
        SELECT l.operation_id, l.balance, l.expires_at FROM credit_ledger l
        WHERE coalesce(l.org_id, l.user_id) = p_account AND l.balance > 0 AND l.expires_at <= p_now
        ORDER BY l.expires_at, l.operation_id
    LOOP
        IF v_total IS NULL THEN
            SELECT sum(l.balance) INTO v_total FROM credit_ledger l
            WHERE coalesce(l.org_id, l.user_id) = p_account AND l.balance <> 0;
        END IF;
        v_total := v_total - v_grant.balance;
        UPDATE credit_ledger SET balance = 0 WHERE operation_id = v_grant.operation_id;
        INSERT INTO credit_entry (account_id, operation_id, kind, amount, grant_balance_after, balance_after, cause, created_at)
        VALUES (p_account, v_grant.operation_id, 'expiry', -v_grant.balance, 0, v_total, 'expiry', p_now);
        credits := credits + v_grant.balance;
        grants := grants + 1;
    END LOOP;
END $$;


-- Add credits, once per operation id. A person's debts are cleared out of the grant, in spending order; what the
-- grant does not cover stays debt. The row is written even when nothing of it is left.
CREATE FUNCTION credit_grant(
    p_operation text, p_user text, p_org text, p_amount bigint, p_type grant_type, p_priority int,
    p_description text, p_expires timestamptz, p_now timestamptz,
    OUT created boolean, OUT balance bigint, OUT debt_cleared bigint
)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_account text := credit_account_lock(p_user, p_org);
    v_total bigint;
    v_grant record;
    v_part bigint;
BEGIN
    SELECT l.balance, coalesce(l.org_id, l.user_id) AS account INTO v_grant
    FROM credit_ledger l WHERE l.operation_id = p_operation;
    IF FOUND THEN
        IF v_grant.account <> v_account THEN
            RAISE EXCEPTION 'operation % belongs to another account', p_operation USING ERRCODE = 'ST409';
        END IF;
        created := false;
        balance := v_grant.balance;
        debt_cleared := 0;
        RETURN;
    END IF;
    PERFORM credit_expire(v_account, p_now);
    v_total := credit_net(v_account, p_now) + p_amount;
    created := true;
    balance := p_amount;
    debt_cleared := 0;
    INSERT INTO credit_entry (account_id, operation_id, kind, amount, grant_balance_after, balance_after, cause, created_at)
    VALUES (v_account, p_operation, 'grant', p_amount, p_amount, v_total, p_operation, p_now);
    IF p_org IS NULL THEN
        FOR v_grant IN
            SELECT l.operation_id, l.balance FROM credit_ledger l
            WHERE coalesce(l.org_id, l.user_id) = v_account AND l.balance < 0
            ORDER BY l.priority, l.expires_at NULLS LAST, l.created_at, l.operation_id
        LOOP
            v_part := least(balance, -v_grant.balance);
            EXIT WHEN v_part = 0;
            balance := balance - v_part;
            debt_cleared := debt_cleared + v_part;
            UPDATE credit_ledger SET balance = v_grant.balance + v_part WHERE operation_id = v_grant.operation_id;
            INSERT INTO credit_entry (account_id, operation_id, kind, amount, grant_balance_after, balance_after, cause, created_at)
            VALUES
                (v_account, p_operation, 'debt_cleared', -v_part, balance, v_total - v_part, p_operation, p_now),
                (v_account, v_grant.operation_id, 'debt_cleared', v_part, v_grant.balance + v_part, v_total, p_operation, p_now);
        END LOOP;
    END IF;
    IF debt_cleared > 0 THEN
        p_description := concat(p_description, ' (', debt_cleared, ' credits used to clear existing debt)');
    END IF;
    INSERT INTO credit_ledger
        (operation_id, user_id, org_id, principal, balance, type, description, priority, expires_at, created_at)
    VALUES
        (p_operation, p_user, p_org, p_amount, credit_grant.balance, p_type, p_description, p_priority, p_expires, p_now);
END $$;


-- Take credits from the grants in spending order. What no grant covers becomes debt of the last one in that order; an
-- account without a grant gets an empty one to carry it. Never fails for want of credit. The caller holds the lock.
CREATE FUNCTION credit_take(
    p_account text, p_amount bigint, p_cause text, p_message text, p_now timestamptz,
    OUT total bigint, OUT from_purchased bigint, OUT debt bigint
)
LANGUAGE plpgsql AS $$
DECLARE
    v_grant record;
    v_part bigint;
BEGIN
    debt := p_amount;
    from_purchased := 0;
    FOR v_grant IN
        SELECT l.operation_id, l.balance, l.type, l.expires_at <= p_now AS expired, sum(l.balance) OVER () AS total
        FROM credit_ledger l
        WHERE coalesce(l.org_id, l.user_id) = p_account AND l.balance <> 0
        ORDER BY l.priority, l.expires_at NULLS LAST, l.created_at, l.operation_id
    LOOP
        total := coalesce(total, v_grant.total);
        IF v_grant.balance < 0 THEN
            CONTINUE;
        END IF;
        IF v_grant.expired THEN
            total := total - v_grant.balance;
            UPDATE credit_ledger SET balance = 0 WHERE operation_id = v_grant.operation_id;
            INSERT INTO credit_entry (account_id, operation_id, kind, amount, grant_balance_after, balance_after, cause, created_at)
            VALUES (p_account, v_grant.operation_id, 'expiry', -v_grant.balance, 0, total, 'expiry', p_now);
        ELSIF debt > 0 THEN
            v_part := least(debt, v_grant.balance);
            debt := debt - v_part;
            total := total - v_part;
            IF v_grant.type = 'purchase' THEN
                from_purchased := from_purchased + v_part;
            END IF;
            UPDATE credit_ledger SET balance = v_grant.balance - v_part WHERE operation_id = v_grant.operation_id;
            INSERT INTO credit_entry
                (account_id, operation_id, kind, amount, grant_balance_after, balance_after, cause, message_id, created_at)
            VALUES
                (p_account, v_grant.operation_id, 'debit', -v_part, v_grant.balance - v_part, total, p_cause, p_message, p_now);
        END IF;
    END LOOP;
    total := coalesce(total, 0) - debt;
    IF debt = 0 THEN
        RETURN;
    END IF;
    SELECT l.operation_id, l.balance INTO v_grant FROM credit_ledger l
    WHERE (l.user_id = p_account AND l.org_id IS NULL OR l.org_id = p_account)
        AND (l.expires_at IS NULL OR l.expires_at > p_now OR l.balance < 0)
    ORDER BY l.priority DESC, l.expires_at DESC NULLS FIRST, l.created_at DESC, l.operation_id DESC
    LIMIT 1;
    IF NOT FOUND THEN
        INSERT INTO credit_ledger
            (operation_id, user_id, org_id, principal, balance, type, description, priority, created_at)
        SELECT
            -- two accounts may know a cause by one name
            CASE WHEN EXISTS (SELECT FROM credit_ledger l WHERE l.operation_id = 'debt-' || p_cause)
                THEN concat_ws('-', 'debt', p_account, p_cause) ELSE 'debt-' || p_cause END,
            coalesce(a.user_id, o.owner_id), a.org_id, 0, 0,
            CASE WHEN a.org_id IS NULL THEN 'admin'::grant_type ELSE 'organization'::grant_type END,
            'Use beyond the balance', CASE WHEN a.org_id IS NULL THEN 60 ELSE 70 END, p_now
        FROM credit_account a LEFT JOIN org o ON o.id = a.org_id
        WHERE a.id = p_account
        RETURNING operation_id, balance INTO v_grant;
    END IF;
    UPDATE credit_ledger SET balance = v_grant.balance - debt WHERE operation_id = v_grant.operation_id;
    INSERT INTO credit_entry
        (account_id, operation_id, kind, amount, grant_balance_after, balance_after, cause, message_id, created_at)
    VALUES
        (p_account, v_grant.operation_id, 'debit', -debt, v_grant.balance - debt, total, p_cause, p_message, p_now);
END $$;


-- Take credits for something that is not a model call, once per cause.
CREATE FUNCTION credit_charge(
    p_user text, p_org text, p_amount bigint, p_cause text, p_now timestamptz,
    OUT charged boolean, OUT amount bigint, OUT total bigint, OUT from_purchased bigint, OUT debt bigint
)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_account text := credit_account_lock(p_user, p_org);
BEGIN
    SELECT -sum(e.amount) INTO amount FROM credit_entry e
    WHERE e.account_id = v_account AND e.cause = p_cause AND e.kind = 'debit' AND e.message_id IS NULL;
    charged := amount IS NULL;
    IF charged THEN
        amount := p_amount;
        SELECT t.total, t.from_purchased, t.debt INTO total, from_purchased, debt
        FROM credit_take(v_account, p_amount, p_cause, NULL, p_now) t;
    ELSE
        from_purchased := 0;
        debt := 0;
        total := credit_net(v_account, p_now);
    END IF;
END $$;


-- Take a grant back: 'revoked', 'unknown' (no such operation), 'unchanged' (revoked before). A grant in debt is refused.
CREATE FUNCTION credit_revoke(p_operation text, p_reason text, p_now timestamptz, OUT outcome text, OUT credits bigint)
LANGUAGE plpgsql AS $$
DECLARE
    v_grant credit_ledger;
    v_account text;
BEGIN
    credits := 0;
    SELECT * INTO v_grant FROM credit_ledger l WHERE l.operation_id = p_operation;
    IF NOT FOUND THEN
        outcome := 'unknown';
        RETURN;
    END IF;
    v_account := credit_account_lock(v_grant.user_id, v_grant.org_id);
    PERFORM credit_expire(v_account, p_now);
    SELECT * INTO v_grant FROM credit_ledger l WHERE l.operation_id = p_operation;
    IF v_grant.balance < 0 THEN
        RAISE EXCEPTION 'grant % is in debt', p_operation USING ERRCODE = 'ST403';
    END IF;
    IF v_grant.principal = 0 AND v_grant.balance = 0 THEN
        outcome := 'unchanged';
        RETURN;
    END IF;
    outcome := 'revoked';
    credits := v_grant.balance;
    UPDATE credit_ledger
    SET principal = 0, balance = 0, description = concat(v_grant.description, ' (Revoked: ', p_reason, ')')
    WHERE operation_id = p_operation;
    INSERT INTO credit_entry (account_id, operation_id, kind, amount, grant_balance_after, balance_after, cause, created_at)
    VALUES (v_account, p_operation, 'revocation', -credits, 0, credit_net(v_account, p_now), 'revocation', p_now);
END $$;


-- Run the monthly cycle of a person if it is due (contract 3.6). Two workers at once: the second finds it done.
CREATE FUNCTION credit_quota(
    p_user text, p_free bigint, p_now timestamptz,
    OUT next_reset timestamptz, OUT renewed boolean, OUT free bigint, OUT referral bigint
)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_reset timestamp;
    v_now timestamp := p_now AT TIME ZONE 'UTC';
    v_months int;
    v_stamp text;
BEGIN
    renewed := false;
    free := 0;
    referral := 0;
    FOR v_look IN 1..2 LOOP
        IF v_look = 2 THEN
            PERFORM credit_account_lock(p_user, NULL);
        END IF;
        SELECT u.next_quota_reset INTO v_reset FROM "user" u WHERE u.id = p_user;
        IF v_reset > v_now THEN
            next_reset := v_reset AT TIME ZONE 'UTC';
            RETURN;
        END IF;
    END LOOP;
    IF v_reset IS NULL OR v_reset < v_now - interval '50 years' THEN
        v_reset := v_now;
    END IF;
    v_months := extract(year FROM age(v_now, v_reset)) * 12 + extract(month FROM age(v_now, v_reset));
    WHILE v_reset + v_months * interval '1 month' <= v_now LOOP
        v_months := v_months + 1;
    END LOOP;
    v_reset := v_reset + v_months * interval '1 month';
    next_reset := v_reset AT TIME ZONE 'UTC';
    renewed := true;
    UPDATE "user" SET next_quota_reset = v_reset WHERE id = p_user;
    v_stamp := to_char(v_reset, 'YYYY-MM-DD"T"HH24:MI');
    SELECT least(l.principal, 2000) INTO free FROM credit_ledger l
    WHERE l.user_id = p_user AND l.org_id IS NULL AND l.type = 'free' AND l.expires_at <= p_now
    ORDER BY l.expires_at DESC, l.created_at DESC
    LIMIT 1;
    IF NOT FOUND THEN
        free := p_free;
    END IF;
    IF free > 0 THEN
        PERFORM credit_grant('free-' || p_user || '-' || v_stamp, p_user, NULL, free, 'free', 20,
            'Monthly free credits', next_reset, p_now);
    END IF;
    SELECT coalesce(sum(r.credits), 0) INTO referral FROM referral r WHERE p_user IN (r.referrer_id, r.referred_id);
    IF referral > 0 THEN
        PERFORM credit_grant('referral-' || p_user || '-' || v_stamp, p_user, NULL, credit_quota.referral, 'referral', 40,
            'Monthly referral bonus', next_reset, p_now);
    END IF;
END $$;


-- Check the caller of a model call and hold credits for it, in the order of contract 5.2. p_hold NULL: check only.
CREATE FUNCTION gateway_admit(
    p_token_hash text, p_request text, p_run text, p_require_run boolean, p_hold bigint, p_door text, p_model text,
    p_worker text, p_ttl_seconds int, p_free bigint, p_now timestamptz,
    OUT outcome text, OUT user_id text, OUT account_id text, OUT agent_id text, OUT balance bigint, OUT held bigint,
    OUT next_reset timestamptz, OUT hold_expires timestamptz
)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_caller record;
    v_status agent_run_status;
    v_holds bigint;
BEGIN
    SELECT s."userId", s.last_used_at, u.banned, u.next_quota_reset INTO v_caller
    FROM session s JOIN "user" u ON u.id = s."userId"
    WHERE s."sessionToken" = p_token_hash AND s.expires > p_now AT TIME ZONE 'UTC';
    IF NOT FOUND THEN
        outcome := 'unknown_key';
        RETURN;
    END IF;
    user_id := v_caller."userId";
    account_id := user_id;
    next_reset := v_caller.next_quota_reset AT TIME ZONE 'UTC';
    IF v_caller.banned THEN
        outcome := 'banned';
        RETURN;
    END IF;
    IF next_reset IS NULL OR next_reset <= p_now THEN
        SELECT q.next_reset INTO next_reset FROM credit_quota(gateway_admit.user_id, p_free, p_now) q;
    END IF;
    IF p_hold IS NOT NULL THEN
        PERFORM credit_account_lock(gateway_admit.user_id, NULL);
    END IF;
    SELECT coalesce(sum(l.balance), 0) INTO balance FROM credit_ledger l
    WHERE coalesce(l.org_id, l.user_id) = gateway_admit.account_id AND l.balance <> 0
        AND (l.expires_at IS NULL OR l.expires_at > p_now OR l.balance < 0);
    SELECT coalesce(sum(h.amount), 0), count(*) INTO held, v_holds FROM credit_hold h
    WHERE h.account_id = gateway_admit.account_id AND h.state = 'live' AND h.expires_at > p_now
        AND h.request_id <> p_request;
    IF balance <= 0 THEN
        outcome := 'out_of_credits';
    ELSIF p_run IS NULL THEN
        IF p_require_run THEN
            outcome := 'no_run';
        END IF;
    ELSE
        SELECT r.agent_id, r.status INTO agent_id, v_status FROM agent_run r
        WHERE r.id = p_run AND r.user_id = gateway_admit.user_id;
        IF NOT FOUND THEN
            outcome := 'run_not_found';
        ELSIF v_status <> 'running' THEN
            outcome := 'run_not_running';
        END IF;
    END IF;
    IF outcome IS NULL THEN
        IF p_hold IS NULL THEN
            outcome := 'checked';
        ELSIF balance - held < p_hold AND v_holds > 0 THEN
            outcome := 'insufficient';
        ELSE
            outcome := 'admitted';
            hold_expires := p_now + make_interval(secs => p_ttl_seconds);
            INSERT INTO credit_hold
                (request_id, account_id, user_id, run_id, model, door, amount, worker, state, created_at, expires_at)
            VALUES
                (p_request, gateway_admit.account_id, gateway_admit.user_id, p_run, p_model, p_door, p_hold, p_worker,
                 'live', p_now, hold_expires)
            ON CONFLICT (request_id) DO UPDATE SET state = 'live', lost_at = NULL, expires_at = excluded.expires_at;
        END IF;
    END IF;
    IF v_caller.last_used_at IS NULL OR v_caller.last_used_at < (p_now - interval '5 minutes') AT TIME ZONE 'UTC' THEN
        UPDATE session SET last_used_at = p_now AT TIME ZONE 'UTC' WHERE "sessionToken" = p_token_hash;
    END IF;
END $$;


-- The facts of one finished call, as models/billing/holds.py sends them.
CREATE TYPE gateway_facts AS (
    request_id text, user_id text, org_id text, key_id text, run_id text, agent_id text, door text, message_id text,
    provider text, requested_model text, model text, usage_source text,
    uncached_input_tokens int, cache_write_tokens int, cache_read_tokens int, output_tokens int, reasoning_tokens int,
    cost numeric, micro_credits bigint, price jsonb, byok boolean,
    request jsonb, response jsonb, reasoning_text text, client_id text, client_request_id text, repo_url text,
    stream boolean, client_gone boolean, ttft_ms int, latency_ms int, latency_bucket int, http_status int, error text,
    started_at timestamptz
);


-- Settle a call: its hold becomes the debit, its entries, message, gateway_call and rollup rows. Once per request id.
-- A call that rounds to no credit adds its micro-credits to the account's carry, and the one that completes a credit
-- is charged it. The caller's own provider key (byok) is not charged. The reserved test user is neither charged nor
-- given a message. Of a payer who was deleted meanwhile nothing is written: request_id is returned alone.
CREATE FUNCTION gateway_settle(
    f gateway_facts, p_now timestamptz,
    OUT request_id text, OUT message_id text, OUT credits bigint, OUT carry_credits bigint, OUT micro_credits bigint,
    OUT balance bigint, OUT from_purchased bigint, OUT debt bigint, OUT duplicate boolean
)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_account text := coalesce(f.org_id, f.user_id);
    v_agent text := coalesce(f.agent_id, '');
    v_carry int;
    v_charge bigint := 0;
    v_hist int[] := array_fill(0, ARRAY[16]);
    v_ttft bigint := coalesce(f.ttft_ms, 0);
    v_ttft_calls int := (f.ttft_ms IS NOT NULL)::int;
BEGIN
    request_id := f.request_id;
    from_purchased := 0;
    debt := 0;
    SELECT a.carry_micro INTO v_carry FROM credit_account a WHERE a.id = v_account FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM FROM "user" u
        WHERE u.id = f.user_id AND (f.org_id IS NULL OR EXISTS (SELECT FROM org o WHERE o.id = f.org_id));
        IF NOT FOUND THEN
            RETURN;
        END IF;
        PERFORM credit_account_lock(f.user_id, f.org_id);
        SELECT a.carry_micro INTO v_carry FROM credit_account a WHERE a.id = v_account;
    END IF;
    SELECT c.message_id, c.credits, c.carry_credits, c.micro_credits, true
    INTO message_id, credits, carry_credits, micro_credits, duplicate
    FROM gateway_call c WHERE c.request_id = f.request_id AND c.state = 'settled';
    IF FOUND THEN
        balance := credit_net(v_account, p_now);
        RETURN;
    END IF;
    duplicate := false;
    micro_credits := f.micro_credits;
    credits := (f.micro_credits + 500000) / 1000000;
    carry_credits := 0;
    DELETE FROM credit_hold h WHERE h.request_id = f.request_id;

    IF f.user_id = 'test-user-id' THEN
        credits := 0;
    ELSE
        IF NOT f.byok THEN
            IF credits = 0 AND f.micro_credits > 0 THEN
                v_carry := v_carry + f.micro_credits;
                IF v_carry >= 1000000 THEN
                    v_carry := v_carry - 1000000;
                    carry_credits := 1;
                    credits := 1;
                END IF;
                UPDATE credit_account SET carry_micro = v_carry WHERE id = v_account;
            END IF;
            v_charge := credits;
        END IF;
        message_id := f.message_id;
        LOOP
            INSERT INTO message (
                id, finished_at, client_id, client_request_id, model, agent_id, request, reasoning_text, response,
                input_tokens, cache_creation_input_tokens, cache_read_input_tokens, reasoning_tokens, output_tokens,
                cost, credits, byok, latency_ms, user_id, org_id, repo_url
            )
            VALUES (
                gateway_settle.message_id, p_now AT TIME ZONE 'UTC', f.client_id, f.client_request_id, f.model,
                f.agent_id, f.request, f.reasoning_text, coalesce(f.response, 'null'),
                least(f.uncached_input_tokens::bigint + f.cache_write_tokens + f.cache_read_tokens, 2147483647),
                nullif(f.cache_write_tokens, 0), f.cache_read_tokens, nullif(f.reasoning_tokens, 0), f.output_tokens,
                f.cost, gateway_settle.credits, f.byok, f.latency_ms, f.user_id, f.org_id, f.repo_url
            )
            ON CONFLICT DO NOTHING;
            EXIT WHEN FOUND;
            -- the upstream gave two calls one id
            message_id := gateway_settle.message_id || '~' || f.request_id;
        END LOOP;
    END IF;

    IF v_charge > 0 THEN
        SELECT t.total, t.from_purchased, t.debt INTO balance, from_purchased, debt
        FROM credit_take(v_account, v_charge, f.request_id, gateway_settle.message_id, p_now) t;
    ELSE
        balance := credit_net(v_account, p_now);
    END IF;

    INSERT INTO gateway_call AS c (
        request_id, message_id, account_id, user_id, run_id, key_id, door, provider, requested_model, model, state,
        http_status, error, usage_source, stream, client_gone, ttft_ms, latency_ms, price, uncached_input_tokens,
        cache_write_tokens, cache_read_tokens, output_tokens, reasoning_tokens, cost, micro_credits, credits,
        carry_credits, started_at, finished_at
    )
    VALUES (
        f.request_id, gateway_settle.message_id, v_account, f.user_id, f.run_id, f.key_id, f.door, f.provider,
        f.requested_model, f.model, 'settled', f.http_status, f.error, f.usage_source, f.stream, f.client_gone,
        f.ttft_ms, f.latency_ms, f.price, f.uncached_input_tokens, f.cache_write_tokens, f.cache_read_tokens,
        f.output_tokens, f.reasoning_tokens, f.cost, f.micro_credits, gateway_settle.credits,
        gateway_settle.carry_credits, f.started_at, p_now
    )
    -- only a call that was first told failed
    ON CONFLICT (request_id) DO UPDATE SET
        message_id = excluded.message_id, provider = excluded.provider, model = excluded.model, state = 'settled',
        http_status = excluded.http_status, error = excluded.error, usage_source = excluded.usage_source,
        client_gone = excluded.client_gone, ttft_ms = excluded.ttft_ms, latency_ms = excluded.latency_ms,
        price = excluded.price, uncached_input_tokens = excluded.uncached_input_tokens,
        cache_write_tokens = excluded.cache_write_tokens, cache_read_tokens = excluded.cache_read_tokens,
        output_tokens = excluded.output_tokens, reasoning_tokens = excluded.reasoning_tokens, cost = excluded.cost,
        micro_credits = excluded.micro_credits, credits = excluded.credits, carry_credits = excluded.carry_credits,
        finished_at = excluded.finished_at;

    IF message_id IS NULL THEN
        RETURN;
    END IF;
    v_hist[f.latency_bucket + 1] := 1;
    INSERT INTO usage_rollup AS r (
        account_id, grain, bucket, user_id, model, agent_id, calls, input_tokens, cache_write_tokens,
        cache_read_tokens, output_tokens, reasoning_tokens, cost, credits, latency_ms, ttft_ms, ttft_calls, latency_hist
    )
    VALUES
        (v_account, 'hour', date_trunc('hour', p_now, 'UTC'), f.user_id, f.model, v_agent, 1, f.uncached_input_tokens,
         f.cache_write_tokens, f.cache_read_tokens, f.output_tokens, f.reasoning_tokens, f.cost, v_charge,
         f.latency_ms, v_ttft, v_ttft_calls, v_hist),
        (v_account, 'day', date_trunc('day', p_now, 'UTC'), f.user_id, f.model, v_agent, 1, f.uncached_input_tokens,
         f.cache_write_tokens, f.cache_read_tokens, f.output_tokens, f.reasoning_tokens, f.cost, v_charge,
         f.latency_ms, v_ttft, v_ttft_calls, v_hist)
    ON CONFLICT (account_id, grain, bucket, user_id, model, agent_id) DO UPDATE SET
        calls = r.calls + 1,
        input_tokens = r.input_tokens + excluded.input_tokens,
        cache_write_tokens = r.cache_write_tokens + excluded.cache_write_tokens,
        cache_read_tokens = r.cache_read_tokens + excluded.cache_read_tokens,
        output_tokens = r.output_tokens + excluded.output_tokens,
        reasoning_tokens = r.reasoning_tokens + excluded.reasoning_tokens,
        cost = r.cost + excluded.cost,
        credits = r.credits + excluded.credits,
        latency_ms = r.latency_ms + excluded.latency_ms,
        ttft_ms = r.ttft_ms + excluded.ttft_ms,
        ttft_calls = r.ttft_calls + excluded.ttft_calls,
        latency_hist[f.latency_bucket + 1] = r.latency_hist[f.latency_bucket + 1] + 1;
END $$;


-- Settle several calls in one transaction: the accounts are locked first, in the order of their ids.
CREATE FUNCTION gateway_settle_many(p_calls gateway_facts[], p_now timestamptz)
RETURNS TABLE (
    request_id text, message_id text, credits bigint, carry_credits bigint, micro_credits bigint,
    balance bigint, from_purchased bigint, debt bigint, duplicate boolean
)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    f gateway_facts;
BEGIN
    PERFORM FROM credit_account a
    WHERE a.id IN (SELECT coalesce(c.org_id, c.user_id) FROM unnest(p_calls) c)
    ORDER BY a.id FOR UPDATE;
    FOREACH f IN ARRAY p_calls LOOP
        RETURN QUERY SELECT * FROM gateway_settle(f, p_now);
    END LOOP;
END $$;


-- Note a call that is over and costs nothing, and free its hold. A settled call stays settled.
CREATE FUNCTION gateway_fail(f gateway_facts, p_now timestamptz) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_account text := coalesce(f.org_id, f.user_id);
BEGIN
    PERFORM FROM credit_account a WHERE a.id = v_account FOR UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    INSERT INTO gateway_call (
        request_id, account_id, user_id, run_id, key_id, door, provider, requested_model, model, state, http_status,
        error, stream, client_gone, ttft_ms, latency_ms, started_at, finished_at
    )
    VALUES (
        f.request_id, v_account, f.user_id, f.run_id, f.key_id, f.door, f.provider, f.requested_model, f.model,
        'failed', f.http_status, f.error, f.stream, f.client_gone, f.ttft_ms, f.latency_ms, f.started_at, p_now
    )
    ON CONFLICT DO NOTHING;
    DELETE FROM credit_hold h WHERE h.request_id = f.request_id;
END $$;


-- Let holds live on; one that was taken for lost is live again. Returns how many there were.
CREATE FUNCTION credit_hold_extend(p_requests text[], p_ttl_seconds int, p_now timestamptz) RETURNS int
LANGUAGE plpgsql AS $$
DECLARE
    v_count int;
BEGIN
    PERFORM FROM credit_hold h WHERE h.request_id = ANY (p_requests) ORDER BY h.request_id FOR UPDATE;
    UPDATE credit_hold
    SET state = 'live', lost_at = NULL, expires_at = p_now + make_interval(secs => p_ttl_seconds)
    WHERE request_id = ANY (p_requests);
    GET DIAGNOSTICS v_count = ROW_COUNT;
    RETURN v_count;
END $$;


-- Holds whose time is over become lost: nothing is held any more, and the row stays for the operator. Grants whose time
-- is over are written off, p_accounts accounts at most, leaving out the busy ones, which do it themselves.
CREATE FUNCTION credit_sweep(p_now timestamptz, p_accounts int, OUT holds int, OUT grants int, OUT credits bigint)
LANGUAGE plpgsql AS $$
DECLARE
    v_account text;
    v_expired record;
BEGIN
    grants := 0;
    credits := 0;
    UPDATE credit_hold SET state = 'lost', lost_at = p_now
    WHERE request_id IN (
        SELECT h.request_id FROM credit_hold h
        WHERE h.state = 'live' AND h.expires_at <= p_now
        FOR UPDATE SKIP LOCKED
    );
    GET DIAGNOSTICS holds = ROW_COUNT;
    FOR v_account IN
        SELECT a.id FROM credit_account a
        WHERE a.id IN (
            SELECT coalesce(l.org_id, l.user_id) FROM credit_ledger l
            WHERE l.balance > 0 AND l.expires_at <= p_now
        )
        ORDER BY a.id LIMIT p_accounts
        FOR UPDATE SKIP LOCKED
    LOOP
        SELECT e.credits, e.grants INTO v_expired FROM credit_expire(v_account, p_now) e;
        credits := credits + v_expired.credits;
        grants := grants + v_expired.grants;
    END LOOP;
END $$;
