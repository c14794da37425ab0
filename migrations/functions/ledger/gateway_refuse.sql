-- Record calls that were refused before they were admitted, with their input; idempotent by request id. They have no provider,
-- which tells them from calls that a provider failed. The account is the one that was to pay (org_id), else that of the key, and
-- nothing is recorded for unknown keys. A run is named only if it is the account's. Touches no balance, hold or budget; locks the
-- accounts, in the order of gateway_admit_many.
CREATE OR REPLACE FUNCTION gateway_refuse(p_calls gateway_facts[], p_now timestamptz) RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    PERFORM credit_account_lock(k.user_id, k.org_id)
    FROM (
        SELECT DISTINCT s."userId" AS user_id, coalesce(f.org_id, m.org_id) AS org_id
        FROM unnest(p_calls) f
        JOIN session s ON s."sessionToken" = f.key_id
        LEFT JOIN org_member m ON m.org_id = s.org_id AND m.user_id = s."userId"
    ) k
    WHERE NOT EXISTS (SELECT FROM credit_account a WHERE a.id = coalesce(k.org_id, k.user_id));
    PERFORM FROM credit_account a
    WHERE a.id IN (
        SELECT coalesce(f.org_id, m.org_id, s."userId")
        FROM unnest(p_calls) f
        JOIN session s ON s."sessionToken" = f.key_id
        LEFT JOIN org_member m ON m.org_id = s.org_id AND m.user_id = s."userId"
    )
    ORDER BY a.id FOR UPDATE;

    WITH known AS MATERIALIZED (
        SELECT f AS call, s."userId" AS user_id, coalesce(f.org_id, m.org_id, s."userId") AS account_id
        FROM unnest(p_calls) f
        JOIN session s ON s."sessionToken" = f.key_id AND s.expires > p_now AT TIME ZONE 'UTC' AND s.disabled_at IS NULL
        LEFT JOIN org_member m ON m.org_id = s.org_id AND m.user_id = s."userId"
    ), recorded AS (
        INSERT INTO gateway_call (
            request_id, account_id, user_id, run_id, key_id, door, requested_model, state, http_status, error, stream,
            latency_ms, parameters, started_at, finished_at
        )
        SELECT
            (k.call).request_id, k.account_id, k.user_id,
            (
                SELECT r.id FROM agent_run r
                WHERE r.id = (k.call).run_id AND r.user_id = k.user_id AND coalesce(r.org_id, r.user_id) = k.account_id
            ),
            (k.call).key_id, (k.call).door, (k.call).requested_model, 'failed', (k.call).http_status, (k.call).error,
            (k.call).stream, (k.call).latency_ms, (k.call).parameters, (k.call).started_at, p_now
        FROM known k
        -- the order in which the trigger counts them: two statements lock the rows of a rollup in the same order
        ORDER BY k.account_id, k.user_id, (k.call).requested_model, (k.call).key_id, (k.call).error,
            (SELECT r.agent_id FROM agent_run r WHERE r.id = (k.call).run_id)
        ON CONFLICT DO NOTHING
        RETURNING gateway_call.request_id
    )
    INSERT INTO call_body (request_id, finished_at, request, definitions, error_message)
    SELECT r.request_id, p_now, (k.call).request, (k.call).definitions, (k.call).error_message
    FROM recorded r JOIN known k ON (k.call).request_id = r.request_id
    WHERE (k.call).request IS NOT NULL OR (k.call).error_message IS NOT NULL
    ON CONFLICT DO NOTHING;
END $$;
