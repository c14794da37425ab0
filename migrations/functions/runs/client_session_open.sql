-- The running run of a client's session or sub-agent (p_id): the one it has, one that ended for lack of calls within the last day,
-- or a new one of agent p_agent below p_ancestors. NULL beyond the limits of new ones. Takes an advisory lock, unless the run
-- is running: several workers see the same session at once.
CREATE OR REPLACE FUNCTION client_session_open(
    p_id text, p_user text, p_org text, p_agent text, p_ancestors text[], p_per_minute int, p_per_day int, p_now timestamptz
) RETURNS text
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    v_known record;
    v_new record;
    v_run text;
BEGIN
    FOR attempt IN 1..2 LOOP
        SELECT c.run_id, c.ended_at, r.status, r.envelope_run_id INTO v_known
        FROM client_session c JOIN agent_run r ON r.id = c.run_id WHERE c.id = p_id;
        IF v_known.status = 'running' THEN
            RETURN v_known.run_id;
        END IF;
        IF attempt = 1 THEN
            PERFORM pg_advisory_xact_lock(hashtextextended('client sessions of ' || p_user, 0));
        END IF;
    END LOOP;
    -- one with an envelope of its own has given that back
    IF v_known.status = 'completed' AND v_known.ended_at > p_now - interval '1 day' AND v_known.envelope_run_id IS NULL THEN
        UPDATE agent_run r SET status = 'running', completed_at = NULL
        WHERE r.id = v_known.run_id AND r.status = 'completed' RETURNING r.id INTO v_run;
        IF FOUND THEN
            UPDATE client_session SET ended_at = NULL, opened_at = p_now WHERE id = p_id;
            RETURN v_run;
        END IF;
    END IF;
    SELECT count(*) AS day, count(*) FILTER (WHERE c.created_at > p_now - interval '1 minute') AS minute INTO v_new
    FROM client_session c WHERE c.user_id = p_user AND c.created_at > p_now - interval '1 day';
    IF v_new.minute >= p_per_minute OR v_new.day >= p_per_day THEN
        RETURN NULL;
    END IF;
    INSERT INTO agent_run (user_id, org_id, agent_id, ancestor_run_ids, status, created_at)
    VALUES (p_user, p_org, p_agent, p_ancestors, 'running', p_now) RETURNING id INTO v_run;
    IF p_ancestors <> '{}' THEN
        PERFORM run_budget_open(v_run, NULL, 'start', p_now);
    END IF;
    INSERT INTO client_session (id, user_id, run_id, created_at, opened_at) VALUES (p_id, p_user, v_run, p_now, p_now)
    ON CONFLICT (id) DO UPDATE
        SET run_id = excluded.run_id, created_at = excluded.created_at, opened_at = excluded.opened_at, ended_at = NULL;
    RETURN v_run;
END $$;
