-- Store the answer of a call with an idempotency key, and return the call to settle, as facts, in the same transaction. If a retry
-- has taken the key over meanwhile (this call's worker seemed dead), returns nothing to settle: the call is recorded as failed
-- and never charged. Locks the row of the claim, before any account; idempotent by request id.
CREATE OR REPLACE FUNCTION idempotent_settle(p_facts jsonb, p_now timestamptz) RETURNS gateway_facts[]
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    v_claim jsonb := p_facts -> 'claim';
BEGIN
    UPDATE idempotent_call c SET
        settled_at = coalesce(c.settled_at, p_now), expires_at = c.created_at + interval '24 hours',
        status = (v_claim ->> 'status')::int, content_type = v_claim ->> 'content_type', headers = v_claim -> 'headers',
        answer = decode(v_claim ->> 'answer', 'base64')
    WHERE c.request_id = p_facts ->> 'request_id';
    IF FOUND THEN
        RETURN ARRAY[jsonb_populate_record(NULL::gateway_facts, p_facts)];
    END IF;
    PERFORM gateway_fail(
        jsonb_populate_record(NULL::gateway_facts, p_facts || '{"error": "superseded", "http_status": 409}'), p_now
    );
    RETURN '{}';
END $$;
