-- Admit several calls in one transaction, in the given order. Locks the accounts first, ordered by id.
CREATE OR REPLACE FUNCTION gateway_admit_many(
    p_asks gateway_ask[], p_worker text, p_ttl_seconds int, p_free bigint, p_now timestamptz
)
RETURNS TABLE (
    outcome text, user_id text, org_id text, agent_id text, balance bigint, held bigint,
    next_reset timestamptz, hold_expires timestamptz, funding text, limit_label text, limit_resets timestamptz
)
LANGUAGE plpgsql SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    ask gateway_ask;
BEGIN
    PERFORM FROM credit_account a
    WHERE a.id IN (
        SELECT coalesce(s.org_id, s."userId") FROM session s
        WHERE s."sessionToken" IN (SELECT u.token_hash FROM unnest(p_asks) u)
    )
    ORDER BY a.id FOR UPDATE;
    FOREACH ask IN ARRAY p_asks LOOP
        RETURN QUERY SELECT * FROM gateway_admit(
            ask.token_hash, ask.request_id, ask.run_id, ask.require_run, ask.hold, ask.door, ask.model,
            p_worker, p_ttl_seconds, p_free, p_now, coalesce(ask.minimum, 0), coalesce(ask.route_model, '')
        );
    END LOOP;
END $$;
