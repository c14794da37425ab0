-- Admit several calls in one transaction, in the given order. Locks the accounts first, ordered by id: those of the keys, and
-- those of the organisations that calls or their runs name.
CREATE OR REPLACE FUNCTION gateway_admit_many(
    p_asks gateway_ask[], p_worker text, p_ttl_seconds int, p_free bigint, p_now timestamptz
)
RETURNS TABLE (
    outcome text, user_id text, org_id text, agent_id text, balance bigint, held bigint,
    next_reset timestamptz, hold_expires timestamptz, funding text, limit_label text, limit_resets timestamptz,
    team_id text, paid_by text, repo_url text, refusal jsonb, budget jsonb, run_left bigint
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
        UNION ALL
        SELECT p.org_id
        FROM unnest(p_asks) u
        JOIN session s ON s."sessionToken" = u.token_hash AND s.org_id IS NULL
        LEFT JOIN agent_run r ON r.id = u.run_id AND r.user_id = s."userId"
        CROSS JOIN LATERAL gateway_payer(
            s."userId", u.token_hash, NULL, NULL, u.org, coalesce(u.repo_url, r.repo_url),
            CASE WHEN r.paid_by IS NOT NULL THEN r.org_id END, r.paid_by, u.model, coalesce(u.route_model, '')
        ) p
        -- most calls name none of these, and then neither key nor run is read here
        WHERE (u.org IS NOT NULL OR u.repo_url IS NOT NULL OR u.run_id IS NOT NULL)
            AND (u.org IS NOT NULL OR u.repo_url IS NOT NULL OR r.repo_url IS NOT NULL OR r.paid_by IS NOT NULL)
    )
    ORDER BY a.id FOR UPDATE;
    FOREACH ask IN ARRAY p_asks LOOP
        RETURN QUERY SELECT * FROM gateway_admit(
            ask.token_hash, ask.request_id, ask.run_id, ask.require_run, ask.hold, ask.door, ask.model,
            p_worker, p_ttl_seconds, p_free, p_now, coalesce(ask.minimum, 0), coalesce(ask.route_model, ''),
            ask.org, ask.repo_url, coalesce(ask.byok, false), ask.run_budget, ask.ip
        );
    END LOOP;
END $$;
