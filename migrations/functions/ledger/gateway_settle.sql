-- Settle a call, once per request id: replace its hold with the debit (by the hold's funding), entries, message, gateway_call and
-- rollup rows. A call that rounds to zero credits adds its micro-credits to the account's carry; the call that completes a
-- credit is charged that credit. Calls with the caller's own provider key (byok) are not charged. The reserved test user is
-- neither charged nor given a message. For a payer deleted in the meantime nothing is written, and only request_id is returned.
CREATE OR REPLACE FUNCTION gateway_settle(
    f gateway_facts, p_now timestamptz,
    OUT request_id text, OUT message_id text, OUT credits bigint, OUT carry_credits bigint, OUT micro_credits bigint,
    OUT balance bigint, OUT from_purchased bigint, OUT debt bigint, OUT duplicate boolean, OUT run_left bigint
)
LANGUAGE plpgsql SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    v_account text := coalesce(f.org_id, f.user_id);
    v_agent text := coalesce(f.agent_id, '');
    v_key text := coalesce(f.key_id, '');
    v_provider text := coalesce(f.provider, '');
    v_type text := usage_type(f.door);
    v_carry int;
    v_hold credit_hold;
    v_envelope text;
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
    IF f.run_id IS NOT NULL AND NOT f.byok THEN
        -- before the hold, which a run that ends moves to another envelope
        SELECT e.run_id INTO v_envelope FROM run_budget_of(coalesce(
            (SELECT h.envelope_run_id FROM credit_hold h WHERE h.request_id = f.request_id),
            (SELECT r.envelope_run_id FROM agent_run r WHERE r.id = f.run_id)
        )) e;
    END IF;
    DELETE FROM credit_hold h WHERE h.request_id = f.request_id RETURNING * INTO v_hold;

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
                cost, credits, byok, latency_ms, user_id, org_id, repo_url, paid_by, key_id, team_id, definitions
            )
            VALUES (
                gateway_settle.message_id, p_now AT TIME ZONE 'UTC', f.client_id, f.client_request_id, f.model,
                f.agent_id, f.request, f.reasoning_text, coalesce(f.response, 'null'),
                least(f.uncached_input_tokens::bigint + f.cache_write_tokens + f.cache_read_tokens, 2147483647),
                nullif(f.cache_write_tokens, 0), f.cache_read_tokens, nullif(f.reasoning_tokens, 0), f.output_tokens,
                f.cost, gateway_settle.credits, f.byok, f.latency_ms, f.user_id, f.org_id, f.repo_url,
                f.paid_by, f.key_id, f.team_id, f.definitions
            )
            ON CONFLICT DO NOTHING;
            EXIT WHEN FOUND;
            -- the upstream gave two calls one id
            message_id := gateway_settle.message_id || '~' || f.request_id;
        END LOOP;
    END IF;

    IF v_charge > 0 THEN
        SELECT t.total, t.from_purchased, t.debt INTO balance, from_purchased, debt
        FROM credit_take(v_account, v_charge, f.request_id, gateway_settle.message_id, p_now, coalesce(v_hold.funding, 'any')) t;
    ELSE
        balance := credit_net(v_account, p_now);
    END IF;

    PERFORM budget_settle(
        v_account, f.user_id, f.key_id, f.team_id, f.agent_id, f.run_id, gateway_settle.credits, f.byok, p_now
    );
    IF v_envelope IS NOT NULL THEN
        UPDATE run_budget SET spent = spent + v_charge WHERE run_id = v_envelope;
        run_left := (SELECT l.free FROM run_budget_left(v_envelope, f.request_id, p_now) l);
    END IF;

    INSERT INTO gateway_call AS c (
        request_id, message_id, account_id, user_id, run_id, key_id, door, provider, requested_model, model, state,
        http_status, error, usage_source, stream, client_gone, ttft_ms, latency_ms, price, parts, raw_usage, flags, uncached_input_tokens,
        cache_write_tokens, cache_read_tokens, output_tokens, reasoning_tokens, cost, micro_credits, credits,
        carry_credits, parameters, routing, started_at, finished_at
    )
    VALUES (
        f.request_id, gateway_settle.message_id, v_account, f.user_id, f.run_id, f.key_id, f.door, f.provider,
        f.requested_model, f.model, 'settled', f.http_status, f.error, f.usage_source, f.stream, f.client_gone,
        f.ttft_ms, f.latency_ms, f.price, f.parts, f.raw_usage, f.flags, f.uncached_input_tokens, f.cache_write_tokens, f.cache_read_tokens,
        f.output_tokens, f.reasoning_tokens, f.cost, f.micro_credits, gateway_settle.credits,
        gateway_settle.carry_credits, f.parameters, f.routing, f.started_at, p_now
    )
    -- only a call that was first told failed
    ON CONFLICT (request_id) DO UPDATE SET
        message_id = excluded.message_id, provider = excluded.provider, model = excluded.model, state = 'settled',
        http_status = excluded.http_status, error = excluded.error, usage_source = excluded.usage_source,
        client_gone = excluded.client_gone, ttft_ms = excluded.ttft_ms, latency_ms = excluded.latency_ms,
        price = excluded.price, parts = excluded.parts, raw_usage = excluded.raw_usage, flags = excluded.flags,
        uncached_input_tokens = excluded.uncached_input_tokens,
        cache_write_tokens = excluded.cache_write_tokens, cache_read_tokens = excluded.cache_read_tokens,
        output_tokens = excluded.output_tokens, reasoning_tokens = excluded.reasoning_tokens, cost = excluded.cost,
        micro_credits = excluded.micro_credits, credits = excluded.credits, carry_credits = excluded.carry_credits,
        routing = excluded.routing, finished_at = excluded.finished_at;
    IF f.error_message IS NOT NULL THEN
        INSERT INTO call_body AS b (request_id, finished_at, error_message) VALUES (f.request_id, p_now, f.error_message)
        ON CONFLICT ON CONSTRAINT call_body_pk DO UPDATE SET error_message = excluded.error_message;
    END IF;

    IF message_id IS NULL THEN
        RETURN;
    END IF;
    v_hist[f.latency_bucket + 1] := 1;
    INSERT INTO usage_rollup AS r (
        account_id, grain, bucket, user_id, model, agent_id, calls, input_tokens, cache_write_tokens,
        cache_read_tokens, output_tokens, reasoning_tokens, cost, credits, latency_ms, ttft_ms, ttft_calls, latency_hist,
        key_id, latency_max, provider, type
    )
    VALUES
        (v_account, 'hour', date_trunc('hour', p_now, 'UTC'), f.user_id, f.model, v_agent, 1, f.uncached_input_tokens,
         f.cache_write_tokens, f.cache_read_tokens, f.output_tokens, f.reasoning_tokens, f.cost, v_charge,
         f.latency_ms, v_ttft, v_ttft_calls, v_hist, v_key, f.latency_ms, v_provider, v_type),
        (v_account, 'day', date_trunc('day', p_now, 'UTC'), f.user_id, f.model, v_agent, 1, f.uncached_input_tokens,
         f.cache_write_tokens, f.cache_read_tokens, f.output_tokens, f.reasoning_tokens, f.cost, v_charge,
         f.latency_ms, v_ttft, v_ttft_calls, v_hist, v_key, f.latency_ms, v_provider, v_type),
        (v_account, 'week', date_trunc('week', p_now, 'UTC'), f.user_id, f.model, v_agent, 1, f.uncached_input_tokens,
         f.cache_write_tokens, f.cache_read_tokens, f.output_tokens, f.reasoning_tokens, f.cost, v_charge,
         f.latency_ms, v_ttft, v_ttft_calls, v_hist, v_key, f.latency_ms, v_provider, v_type)
    ON CONFLICT (account_id, grain, bucket, user_id, model, agent_id, key_id, error, provider, type) DO UPDATE SET
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
        latency_hist[f.latency_bucket + 1] = r.latency_hist[f.latency_bucket + 1] + 1,
        latency_max = greatest(r.latency_max, excluded.latency_max);
END $$;
