-- Record a call that ended without cost, with what is kept of it, and release its hold. A settled call stays settled.
CREATE OR REPLACE FUNCTION gateway_fail(f gateway_facts, p_now timestamptz) RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    v_account text := coalesce(f.org_id, f.user_id);
BEGIN
    PERFORM FROM credit_account a WHERE a.id = v_account FOR UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    INSERT INTO gateway_call (
        request_id, account_id, user_id, run_id, key_id, door, provider, requested_model, model, state, http_status,
        error, stream, client_gone, ttft_ms, latency_ms, parameters, started_at, finished_at
    )
    VALUES (
        f.request_id, v_account, f.user_id, f.run_id, f.key_id, f.door, f.provider, f.requested_model, f.model,
        'failed', f.http_status, f.error, f.stream, f.client_gone, f.ttft_ms, f.latency_ms, f.parameters, f.started_at,
        p_now
    )
    ON CONFLICT DO NOTHING;
    IF FOUND AND coalesce(f.request, f.response, to_jsonb(f.error_message)) IS NOT NULL THEN
        INSERT INTO call_body (request_id, finished_at, request, definitions, response, error_message)
        VALUES (f.request_id, p_now, f.request, f.definitions, f.response, f.error_message)
        ON CONFLICT DO NOTHING;
    END IF;
    DELETE FROM credit_hold h WHERE h.request_id = f.request_id;
END $$;
