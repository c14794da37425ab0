-- Claim an idempotency key for a call. Keys belong to the owner of the API key, and to its organisation if it has one. state:
-- `claimed`; `unknown`, without such an API key; else an earlier call has the key, whose id and time are returned: `mismatch`, it
-- was another request; `in_flight`, it has not ended; `stored`, with its answer; `not_kept`, it was charged and its answer was too
-- large. A key is free again 24 hours after the call that was charged, or once an uncharged one is no longer renewed: its worker
-- died. Locks the row of the claim, before any account; idempotent by request id.
CREATE OR REPLACE FUNCTION idempotent_claim(
    p_token_hash text, p_key_hash text, p_fingerprint text, p_request text, p_ttl_seconds int, p_now timestamptz,
    OUT state text, OUT request_id text, OUT created_at timestamptz, OUT status int, OUT content_type text, OUT headers jsonb,
    OUT answer bytea
)
LANGUAGE plpgsql SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    v_fingerprint text;
    v_settled timestamptz;
BEGIN
    INSERT INTO idempotent_call AS c (request_id, user_id, org_id, key_hash, fingerprint, created_at, expires_at)
    SELECT p_request, s."userId", s.org_id, p_key_hash, p_fingerprint, p_now, p_now + make_interval(secs => p_ttl_seconds)
    FROM session s
    WHERE s."sessionToken" = p_token_hash AND s.expires > p_now AT TIME ZONE 'UTC' AND s.disabled_at IS NULL
    ON CONFLICT ON CONSTRAINT idempotent_call_once DO UPDATE SET
        request_id = excluded.request_id, fingerprint = excluded.fingerprint, created_at = excluded.created_at,
        expires_at = excluded.expires_at, settled_at = NULL, status = NULL, content_type = NULL, headers = NULL, answer = NULL
    WHERE c.expires_at <= p_now OR c.request_id = excluded.request_id AND c.settled_at IS NULL;
    IF FOUND THEN
        state := 'claimed';
        RETURN;
    END IF;
    SELECT c.request_id, c.created_at, c.fingerprint, c.settled_at, c.status, c.content_type, c.headers, c.answer
    INTO request_id, created_at, v_fingerprint, v_settled, status, content_type, headers, answer
    FROM session s
    JOIN idempotent_call c ON c.user_id = s."userId" AND c.org_id IS NOT DISTINCT FROM s.org_id AND c.key_hash = p_key_hash
    WHERE s."sessionToken" = p_token_hash;
    state := CASE
        WHEN request_id IS NULL THEN 'unknown'
        WHEN v_fingerprint <> p_fingerprint THEN 'mismatch'
        WHEN v_settled IS NULL THEN 'in_flight'
        WHEN answer IS NULL THEN 'not_kept'
        ELSE 'stored'
    END;
    IF state <> 'stored' THEN
        answer := NULL;
    END IF;
END $$;
