-- The run for a call of a client's session (p_agent ''), or of its sub-agent p_agent of type p_kind, which the sub-agent p_parent
-- started. Opens the runs that are missing. Of each user, key's organisation and named payer (p_org, p_repo) a session has runs of
-- its own: a run belongs to one account. NULL for an unknown key, and beyond the limits (client_session_open).
CREATE OR REPLACE FUNCTION client_session_run(
    p_token_hash text, p_secret text, p_org text, p_repo text, p_client text, p_session text, p_agent text, p_kind text, p_parent text,
    p_per_minute int, p_per_day int, p_now timestamptz
) RETURNS text
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    v_key record;
    v_ids text[];
    v_above text[];
    v_run text;
BEGIN
    SELECT s."userId" AS user_id, s.org_id INTO v_key
    FROM session s JOIN "user" u ON u.id = s."userId" AND NOT u.banned
    WHERE s."sessionToken" = p_token_hash AND s.expires > p_now AT TIME ZONE 'UTC' AND s.disabled_at IS NULL
        -- the id of such a key is public
        AND (p_secret IS NULL AND NOT starts_with(p_token_hash, 'sk_') OR EXISTS (
            SELECT FROM api_key k WHERE k.key_id = p_token_hash
                AND (k.hashed_key = p_secret OR k.prev_hashed_key = p_secret AND k.prev_valid_until > p_now)
        ));
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    SELECT array_agg(encode(sha256(convert_to(
        jsonb_build_array(v_key.user_id, v_key.org_id, p_org, p_repo, p_client, p_session, e.agent)::text, 'UTF8'
    )), 'hex') ORDER BY e.number) INTO v_ids
    FROM unnest(ARRAY['', p_parent, p_agent]) WITH ORDINALITY e (agent, number);
    v_run := client_session_open(
        v_ids[1], v_key.user_id, v_key.org_id, p_client, '{}', p_per_minute, p_per_day, p_now
    );
    IF p_agent = '' OR v_run IS NULL THEN
        RETURN v_run;
    END IF;
    SELECT r.ancestor_run_ids || r.id INTO v_above
    FROM client_session c JOIN agent_run r ON r.id = c.run_id
    WHERE c.id = v_ids[2] AND r.ancestor_run_ids[1] = v_run AND p_parent <> p_agent;
    RETURN client_session_open(
        v_ids[3], v_key.user_id, v_key.org_id, p_client || '/' || p_kind, coalesce(v_above, ARRAY[v_run]),
        p_per_minute, p_per_day, p_now
    );
END $$;
