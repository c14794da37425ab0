-- Count queued runs: the first p_most rows of store_queue with id > p_after, and delete the rows. Returns the last id, or
-- NULL when there was none. Idempotent: each run is counted as it is now, so duplicate rows do no harm.
--
-- Deadlock-free: waits only for the window's lock, before it holds any other. Agents locked by a publication or another call
-- are skipped, and their runs stay queued.
CREATE OR REPLACE FUNCTION store_apply(p_after bigint, p_most int) RETURNS bigint
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    v_last bigint;
    v_ids bigint[];
    v_named text[];
    v_runs text[];
    v_place record;
    v_ready text[] := '{}';
    v_busy text[] := '{}';
    v_before agent_run_bill[];
    v_after agent_run_bill[];
BEGIN
    PERFORM store_since();
    SELECT max(q.id), array_agg(q.id), array_agg(DISTINCT q.run_id) INTO v_last, v_ids, v_named
    FROM (
        SELECT w.id, w.run_id FROM store_queue w WHERE w.id > p_after ORDER BY w.id LIMIT p_most FOR UPDATE SKIP LOCKED
    ) q;
    IF v_last IS NULL THEN
        RETURN NULL;
    END IF;

    SELECT array_agg(n.id) INTO v_runs
    FROM (
        SELECT unnest(v_named) AS id
        UNION
        SELECT a.id
        FROM agent_run r, unnest(r.ancestor_run_ids) AS above (id) JOIN agent_run a ON a.id = above.id
        WHERE r.id = ANY (v_named) AND a.user_id = r.user_id
    ) n;

    -- Who finished, corrected or deleted a run says of which agent it is: a bill that somebody writes just now cannot be seen.
    FOR v_place IN
        SELECT p.publisher_id, p.agent_id, array_agg(p.run_id) AS runs
        FROM (
            SELECT r.id AS run_id, r.publisher_id, r.agent_name AS agent_id FROM agent_run r
            WHERE r.id = ANY (v_runs) AND r.publisher_id IS NOT NULL AND r.status <> 'running'
            UNION
            SELECT b.run_id, b.publisher_id, b.agent_id FROM agent_run_bill b WHERE b.run_id = ANY (v_runs)
            UNION
            SELECT q.run_id, q.publisher_id, q.agent_id FROM store_queue q
            WHERE q.id = ANY (v_ids) AND q.publisher_id IS NOT NULL
        ) p
        GROUP BY p.publisher_id, p.agent_id
        ORDER BY p.publisher_id, p.agent_id
    LOOP
        IF pg_try_advisory_xact_lock(store_agent_key(v_place.publisher_id, v_place.agent_id)) THEN
            PERFORM FROM agent a
            WHERE a.publisher_id = v_place.publisher_id AND a.id = v_place.agent_id FOR NO KEY UPDATE SKIP LOCKED;
            IF FOUND OR NOT EXISTS (
                SELECT FROM agent a WHERE a.publisher_id = v_place.publisher_id AND a.id = v_place.agent_id
            ) THEN
                v_ready := v_ready || v_place.runs;
                CONTINUE;
            END IF;
        END IF;
        v_busy := v_busy || v_place.runs;
    END LOOP;
    v_ready := ARRAY(SELECT unnest(v_ready) EXCEPT SELECT unnest(v_busy));

    -- with a picture from after the locks
    SELECT coalesce(array_agg(b), '{}') INTO v_before FROM agent_run_bill b WHERE b.run_id = ANY (v_ready);
    SELECT coalesce(array_agg(ROW(f.*)::agent_run_bill), '{}') INTO v_after
    FROM finished_agent_run f JOIN agent a ON a.publisher_id = f.publisher_id AND a.id = f.agent_id
    WHERE f.run_id = ANY (v_ready);
    INSERT INTO agent_run_bill AS b SELECT n.* FROM unnest(v_after) n
    ON CONFLICT (run_id) DO UPDATE SET
        publisher_id = excluded.publisher_id, agent_id = excluded.agent_id, version = excluded.version,
        user_id = excluded.user_id, status = excluded.status, credits = excluded.credits,
        duration_ms = excluded.duration_ms, created_at = excluded.created_at, own = excluded.own
    WHERE (b.*) IS DISTINCT FROM (excluded.*);
    DELETE FROM agent_run_bill b
    WHERE b.run_id = ANY (v_ready) AND b.run_id NOT IN (SELECT n.run_id FROM unnest(v_after) n);
    -- once for all: a second update of an agent's row in one transaction would look at its publisher's, and wait for it
    PERFORM store_move(
        ARRAY(SELECT a FROM unnest(v_after) a EXCEPT SELECT b FROM unnest(v_before) b),
        ARRAY(SELECT b FROM unnest(v_before) b EXCEPT SELECT a FROM unnest(v_after) a)
    );

    DELETE FROM store_queue q
    WHERE q.id = ANY (v_ids) AND q.run_id <> ALL (v_busy) AND NOT EXISTS (
        SELECT FROM agent_run r WHERE r.id = q.run_id AND r.ancestor_run_ids && v_busy
    );
    RETURN v_last;
END $$;
