-- What a call asks the ledger, as models/billing/holds.py sends it.
CREATE TYPE gateway_ask AS (
    token_hash text, request_id text, run_id text, require_run boolean, hold bigint, door text, model text
);


-- Admit several calls in one transaction, in the order given: the accounts are locked first, in the order of their ids.
CREATE FUNCTION gateway_admit_many(
    p_asks gateway_ask[], p_worker text, p_ttl_seconds int, p_free bigint, p_now timestamptz
)
RETURNS TABLE (
    outcome text, user_id text, account_id text, agent_id text, balance bigint, held bigint,
    next_reset timestamptz, hold_expires timestamptz
)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    ask gateway_ask;
BEGIN
    PERFORM FROM credit_account a
    WHERE a.id IN (
        SELECT s."userId" FROM session s WHERE s."sessionToken" IN (SELECT u.token_hash FROM unnest(p_asks) u)
    )
    ORDER BY a.id FOR UPDATE;
    FOREACH ask IN ARRAY p_asks LOOP
        RETURN QUERY SELECT * FROM gateway_admit(
            ask.token_hash, ask.request_id, ask.run_id, ask.require_run, ask.hold, ask.door, ask.model,
            p_worker, p_ttl_seconds, p_free, p_now
        );
    END LOOP;
END $$;
