-- The store counts a run that has a settled call, its own or one of a run below it, and no other; and a publisher's own
-- runs apart, in own_runs and in no other figure. Functions that store_0010.sql made are here whole, as they are now.
--
-- Below a run are the runs of the same person that name it among their ancestors, however deep. Own are the runs of the
-- user who owns the publisher, and of the members of the organisation that does, as they are now: who joins or leaves
-- takes their runs along.
--
-- Locks, always in this order:
--   1  credit_account rows (migrations/sql/ledger_0003.sql), or the agent_run row of a finish
--   2  runs' advisory locks, by id. A settlement takes those of its run and of the runs above it, a finish that of its
--      run: one after the other, so that neither misses the other
--   3  the window's advisory lock: shared by all that count, alone by store_slide and by who changes whose runs are own
--   4  agents by publisher_id and id: the advisory lock of an agent (shared to count, alone to enter the store), then
--      its row. Under the lock of the row its figures are written, those of versions, days and users too.
-- Isolation: READ COMMITTED; the statement after a lock sees all that the former holder committed.


ALTER TABLE agent ADD COLUMN own_runs bigint NOT NULL DEFAULT 0;
ALTER TABLE agent_version ADD COLUMN own_runs bigint NOT NULL DEFAULT 0;
ALTER TABLE agent_day ADD COLUMN own_runs bigint NOT NULL DEFAULT 0;
ALTER TABLE agent_run_bill ADD COLUMN own boolean NOT NULL DEFAULT false;


-- In which figure a run is counted: completed, failed or cancelled; own, however it ended, when it is the publisher's.
CREATE FUNCTION store_kind(p_status text, p_own boolean) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN p_own THEN 'own' ELSE p_status END;


-- Whether a publisher is somebody's, or of an organisation that they are a member of.
CREATE FUNCTION store_is_own(p_publisher text, p_user text) RETURNS boolean
LANGUAGE sql STABLE
RETURN EXISTS (
    SELECT FROM publisher p
    WHERE p.id = p_publisher AND (
        p.user_id = p_user
        OR EXISTS (SELECT FROM org_member m WHERE m.org_id = p.org_id AND m.user_id = p_user)
    )
);


-- What each finished run of a published agent counts for. Calls paid with the caller's own provider key cost nothing.
CREATE OR REPLACE VIEW finished_agent_run AS
SELECT
    r.id AS run_id, r.publisher_id, r.agent_name AS agent_id, r.agent_version AS version, r.user_id,
    r.status::text AS status,
    (
        SELECT coalesce(sum(c.credits), 0)::bigint
        FROM gateway_call c LEFT JOIN message m ON m.id = c.message_id
        WHERE c.run_id = r.id AND c.state = 'settled' AND m.byok IS NOT TRUE
    ) AS credits,
    greatest(coalesce(r.duration_ms, 0), 0)::bigint AS duration_ms,
    r.created_at,
    store_is_own(r.publisher_id, r.user_id) AS own
FROM agent_run r
WHERE r.status <> 'running' AND r.publisher_id IS NOT NULL AND r.agent_id <> 'test-agent' AND (
    EXISTS (SELECT FROM gateway_call c WHERE c.run_id = r.id AND c.state = 'settled')
    OR EXISTS (
        SELECT FROM agent_run below
        WHERE below.ancestor_run_ids @> ARRAY[r.id] AND below.user_id = r.user_id
            AND EXISTS (SELECT FROM gateway_call c WHERE c.run_id = below.id AND c.state = 'settled')
    )
);


-- Lock what the settlement of calls of these runs may change: the runs and those above them, and the agents of those that
-- ended. Returns the runs that ended, to be counted again in this order.
CREATE FUNCTION store_settling(p_runs text[]) RETURNS text[]
LANGUAGE plpgsql AS $$
DECLARE
    v_runs text[];
    v_run text;
    v_ended text[];
    v_agent record;
BEGIN
    SELECT array_agg(DISTINCT a.id ORDER BY a.id) INTO v_runs
    FROM agent_run r, unnest(r.ancestor_run_ids || r.id) AS above (id) JOIN agent_run a ON a.id = above.id
    WHERE r.id = ANY (p_runs) AND (a.id = r.id OR a.user_id = r.user_id) AND a.publisher_id IS NOT NULL;
    IF v_runs IS NULL THEN
        RETURN '{}';
    END IF;
    FOREACH v_run IN ARRAY v_runs LOOP
        PERFORM store_run_lock(v_run);
    END LOOP;
    SELECT array_agg(r.id ORDER BY r.publisher_id, r.agent_name, r.id) INTO v_ended
    FROM agent_run r WHERE r.id = ANY (v_runs) AND r.status <> 'running';
    IF v_ended IS NULL THEN
        RETURN '{}';
    END IF;
    PERFORM store_since();
    FOR v_agent IN
        SELECT DISTINCT r.publisher_id, r.agent_name FROM agent_run r WHERE r.id = ANY (v_ended) ORDER BY 1, 2
    LOOP
        PERFORM pg_advisory_xact_lock_shared(store_agent_key(v_agent.publisher_id, v_agent.agent_name));
        PERFORM FROM agent a
        WHERE a.publisher_id = v_agent.publisher_id AND a.id = v_agent.agent_name FOR NO KEY UPDATE;
    END LOOP;
    RETURN v_ended;
END $$;


-- Bring what a run is counted for in line with what it, its calls and those of the runs below it are. Once or often: the
-- same.
CREATE OR REPLACE FUNCTION store_count(p_run text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_run record;
    v_bill agent_run_bill;
BEGIN
    PERFORM store_run_lock(p_run);
    SELECT r.publisher_id, r.agent_name INTO v_run FROM agent_run r
    WHERE r.id = p_run AND r.publisher_id IS NOT NULL AND r.status <> 'running'
    FOR KEY SHARE;
    IF FOUND THEN
        PERFORM store_since();
        PERFORM pg_advisory_xact_lock_shared(store_agent_key(v_run.publisher_id, v_run.agent_name));
        IF EXISTS (SELECT FROM agent a WHERE a.publisher_id = v_run.publisher_id AND a.id = v_run.agent_name) THEN
            SELECT f.* INTO v_bill FROM finished_agent_run f WHERE f.run_id = p_run;
        END IF;
        IF v_bill.run_id IS NOT NULL THEN
            INSERT INTO agent_run_bill AS b SELECT v_bill.*
            ON CONFLICT (run_id) DO UPDATE SET
                publisher_id = excluded.publisher_id, agent_id = excluded.agent_id, version = excluded.version,
                user_id = excluded.user_id, status = excluded.status, credits = excluded.credits,
                duration_ms = excluded.duration_ms, created_at = excluded.created_at, own = excluded.own
            WHERE (b.*) IS DISTINCT FROM (excluded.*);
            RETURN;
        END IF;
    END IF;
    DELETE FROM agent_run_bill b WHERE b.run_id = p_run;
END $$;

-- What a connection prepares while its tables are all but empty would read them whole later on.
ALTER FUNCTION store_count SET enable_seqscan = off;


-- Count runs in the figures of their agents, or take them out again.
CREATE OR REPLACE FUNCTION store_move(p_added agent_run_bill[], p_removed agent_run_bill[]) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_since timestamptz := store_since();
BEGIN
    PERFORM FROM agent a
    WHERE (a.publisher_id, a.id) IN (SELECT c.publisher_id, c.agent_id FROM unnest(p_added || p_removed) c)
    ORDER BY a.publisher_id, a.id FOR NO KEY UPDATE;

    WITH change AS MATERIALIZED (
        SELECT b.*, store_kind(b.status, b.own) AS kind, store_bucket(b.duration_ms) AS bucket, 1 AS sign
        FROM unnest(p_added) b
        UNION ALL
        SELECT b.*, store_kind(b.status, b.own), store_bucket(b.duration_ms), -1 FROM unnest(p_removed) b
    ),
    people AS (
        SELECT c.publisher_id, c.agent_id, v.version, c.user_id, sum(c.sign) AS runs
        FROM change c, LATERAL (VALUES (c.version), ('')) AS v (version)
        WHERE c.kind = 'completed' AND c.user_id IS NOT NULL
        GROUP BY 1, 2, 3, 4 HAVING sum(c.sign) <> 0
    ),
    told AS (
        INSERT INTO agent_user AS u (publisher_id, agent_id, version, user_id, runs)
        SELECT p.publisher_id, p.agent_id, p.version, p.user_id, p.runs FROM people p
        ON CONFLICT (publisher_id, agent_id, version, user_id) DO UPDATE SET runs = u.runs + excluded.runs
        RETURNING publisher_id, agent_id, version, user_id, runs
    ),
    uniques AS (
        SELECT publisher_id, agent_id, version, sum((t.runs > 0)::int - (t.runs - p.runs > 0)::int) AS users
        FROM people p JOIN told t USING (publisher_id, agent_id, version, user_id)
        GROUP BY 1, 2, 3
    ),
    sums AS (
        SELECT c.publisher_id, c.agent_id, v.version,
            coalesce(sum(c.sign) FILTER (WHERE c.kind = 'completed'), 0) AS runs,
            coalesce(sum(c.sign) FILTER (WHERE c.kind = 'failed'), 0) AS failed,
            coalesce(sum(c.sign) FILTER (WHERE c.kind = 'cancelled'), 0) AS cancelled,
            coalesce(sum(c.sign) FILTER (WHERE c.kind = 'own'), 0) AS own_runs,
            coalesce(sum(c.sign * c.credits) FILTER (WHERE c.kind = 'completed'), 0) AS credits,
            coalesce(sum(c.sign) FILTER (WHERE c.kind = 'completed' AND c.created_at >= v_since), 0) AS weekly_runs,
            coalesce(sum(c.sign * c.credits) FILTER (WHERE c.kind = 'completed' AND c.created_at >= v_since), 0) AS weekly_credits,
            store_histogram(c.bucket, c.sign) FILTER (WHERE c.kind = 'completed') AS durations,
            max(c.created_at) FILTER (WHERE c.kind = 'completed' AND c.sign > 0) AS came,
            max(c.created_at) FILTER (WHERE c.kind = 'completed' AND c.sign < 0) AS went
        FROM change c, LATERAL (VALUES (c.version), ('')) AS v (version)
        GROUP BY 1, 2, 3
    ),
    moved AS MATERIALIZED (
        SELECT s.*, coalesce(u.users, 0) AS users
        FROM sums s LEFT JOIN uniques u USING (publisher_id, agent_id, version)
    ),
    days AS (
        INSERT INTO agent_day AS d (publisher_id, agent_id, day, version, runs, failed, cancelled, credits, own_runs)
        SELECT c.publisher_id, c.agent_id, (c.created_at AT TIME ZONE 'UTC')::date, c.version,
            coalesce(sum(c.sign) FILTER (WHERE c.kind = 'completed'), 0),
            coalesce(sum(c.sign) FILTER (WHERE c.kind = 'failed'), 0),
            coalesce(sum(c.sign) FILTER (WHERE c.kind = 'cancelled'), 0),
            coalesce(sum(c.sign * c.credits) FILTER (WHERE c.kind = 'completed'), 0),
            coalesce(sum(c.sign) FILTER (WHERE c.kind = 'own'), 0)
        FROM change c GROUP BY 1, 2, 3, 4
        ON CONFLICT (publisher_id, agent_id, day, version) DO UPDATE SET
            runs = d.runs + excluded.runs, failed = d.failed + excluded.failed,
            cancelled = d.cancelled + excluded.cancelled, credits = d.credits + excluded.credits,
            own_runs = d.own_runs + excluded.own_runs
    ),
    versions AS (
        UPDATE agent_version a SET
            runs = a.runs + m.runs, failed = a.failed + m.failed, cancelled = a.cancelled + m.cancelled,
            own_runs = a.own_runs + m.own_runs,
            credits = a.credits + m.credits, weekly_runs = a.weekly_runs + m.weekly_runs,
            weekly_credits = a.weekly_credits + m.weekly_credits, unique_users = a.unique_users + m.users,
            durations = store_sum(a.durations, m.durations),
            last_used = CASE WHEN m.went >= a.last_used AND m.went > coalesce(m.came, '-infinity') THEN (
                SELECT max(b.created_at) FROM agent_run_bill b
                WHERE b.publisher_id = a.publisher_id AND b.agent_id = a.agent_id AND b.version = a.version
                    AND b.status = 'completed' AND NOT b.own AND b.created_at <= m.went
            ) ELSE greatest(a.last_used, m.came) END
        FROM moved m
        WHERE a.publisher_id = m.publisher_id AND a.agent_id = m.agent_id AND a.version = m.version
    )
    UPDATE agent a SET
        runs = a.runs + m.runs, failed = a.failed + m.failed, cancelled = a.cancelled + m.cancelled,
        own_runs = a.own_runs + m.own_runs,
        credits = a.credits + m.credits, weekly_runs = a.weekly_runs + m.weekly_runs,
        weekly_credits = a.weekly_credits + m.weekly_credits, unique_users = a.unique_users + m.users,
        durations = store_sum(a.durations, m.durations),
        last_used = CASE WHEN m.went >= a.last_used AND m.went > coalesce(m.came, '-infinity') THEN (
            SELECT b.created_at FROM agent_run_bill b
            WHERE b.publisher_id = a.publisher_id AND b.agent_id = a.id
                AND b.status = 'completed' AND NOT b.own AND b.created_at <= m.went
            ORDER BY b.created_at DESC LIMIT 1
        ) ELSE greatest(a.last_used, m.came) END
    FROM moved m
    WHERE m.version = '' AND a.publisher_id = m.publisher_id AND a.id = m.agent_id;

    IF p_removed IS NOT NULL THEN
        DELETE FROM agent_user u USING (SELECT DISTINCT publisher_id, agent_id, user_id FROM unnest(p_removed)) c
        WHERE u.publisher_id = c.publisher_id AND u.agent_id = c.agent_id AND u.user_id = c.user_id AND u.runs = 0;
        DELETE FROM agent_day d USING (
            SELECT DISTINCT publisher_id, agent_id, version, (created_at AT TIME ZONE 'UTC')::date AS day
            FROM unnest(p_removed)
        ) c
        WHERE d.publisher_id = c.publisher_id AND d.agent_id = c.agent_id AND d.day = c.day AND d.version = c.version
            AND d.runs = 0 AND d.failed = 0 AND d.cancelled = 0 AND d.credits = 0 AND d.own_runs = 0;
    END IF;
END $$;


-- Figures told anew from agent_run_bill: an agent's and those of its versions. The caller holds the agent's row.
CREATE OR REPLACE FUNCTION store_tell(p_publisher text, p_agent text, p_since timestamptz) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM agent_user u WHERE u.publisher_id = p_publisher AND u.agent_id = p_agent;
    DELETE FROM agent_day d WHERE d.publisher_id = p_publisher AND d.agent_id = p_agent;
    INSERT INTO agent_user (publisher_id, agent_id, version, user_id, runs)
    SELECT p_publisher, p_agent, v.version, b.user_id, count(*)
    FROM agent_run_bill b, LATERAL (VALUES (b.version), ('')) AS v (version)
    WHERE b.publisher_id = p_publisher AND b.agent_id = p_agent AND b.status = 'completed' AND NOT b.own
        AND b.user_id IS NOT NULL
    GROUP BY v.version, b.user_id;
    INSERT INTO agent_day (publisher_id, agent_id, day, version, runs, failed, cancelled, credits, own_runs)
    SELECT p_publisher, p_agent, (b.created_at AT TIME ZONE 'UTC')::date, b.version,
        count(*) FILTER (WHERE b.kind = 'completed'), count(*) FILTER (WHERE b.kind = 'failed'),
        count(*) FILTER (WHERE b.kind = 'cancelled'),
        coalesce(sum(b.credits) FILTER (WHERE b.kind = 'completed'), 0), count(*) FILTER (WHERE b.kind = 'own')
    FROM (SELECT b.*, store_kind(b.status, b.own) AS kind FROM agent_run_bill b) b
    WHERE b.publisher_id = p_publisher AND b.agent_id = p_agent
    GROUP BY 3, 4;

    -- one row for each version that ran or is published, and one for all together
    WITH ran AS (
        SELECT v.version,
            count(*) FILTER (WHERE b.kind = 'completed') AS runs,
            count(*) FILTER (WHERE b.kind = 'failed') AS failed,
            count(*) FILTER (WHERE b.kind = 'cancelled') AS cancelled,
            count(*) FILTER (WHERE b.kind = 'own') AS own_runs,
            sum(b.credits) FILTER (WHERE b.kind = 'completed') AS credits,
            count(*) FILTER (WHERE b.kind = 'completed' AND b.created_at >= p_since) AS weekly_runs,
            sum(b.credits) FILTER (WHERE b.kind = 'completed' AND b.created_at >= p_since) AS weekly_credits,
            count(DISTINCT b.user_id) FILTER (WHERE b.kind = 'completed') AS users,
            store_histogram(store_bucket(b.duration_ms), 1) FILTER (WHERE b.kind = 'completed') AS durations,
            max(b.created_at) FILTER (WHERE b.kind = 'completed') AS last_used
        FROM (SELECT b.*, store_kind(b.status, b.own) AS kind FROM agent_run_bill b) b,
            LATERAL (VALUES (b.version), ('')) AS v (version)
        WHERE b.publisher_id = p_publisher AND b.agent_id = p_agent
        GROUP BY v.version
    ),
    told AS MATERIALIZED (
        SELECT n.version, coalesce(r.runs, 0) AS runs, coalesce(r.failed, 0) AS failed,
            coalesce(r.cancelled, 0) AS cancelled, coalesce(r.own_runs, 0) AS own_runs, coalesce(r.credits, 0) AS credits,
            coalesce(r.weekly_runs, 0) AS weekly_runs, coalesce(r.weekly_credits, 0) AS weekly_credits,
            coalesce(r.users, 0) AS users, coalesce(r.durations, array_fill(0::bigint, ARRAY[16])) AS durations,
            r.last_used
        FROM (
            SELECT v.version FROM agent_version v WHERE v.publisher_id = p_publisher AND v.agent_id = p_agent
            UNION ALL SELECT ''
        ) n LEFT JOIN ran r USING (version)
    ),
    versions AS (
        UPDATE agent_version a SET
            runs = t.runs, failed = t.failed, cancelled = t.cancelled, own_runs = t.own_runs, credits = t.credits,
            weekly_runs = t.weekly_runs, weekly_credits = t.weekly_credits, unique_users = t.users,
            durations = t.durations, last_used = t.last_used
        FROM told t
        WHERE a.publisher_id = p_publisher AND a.agent_id = p_agent AND a.version = t.version
    )
    UPDATE agent a SET
        runs = t.runs, failed = t.failed, cancelled = t.cancelled, own_runs = t.own_runs, credits = t.credits,
        weekly_runs = t.weekly_runs, weekly_credits = t.weekly_credits, unique_users = t.users,
        durations = t.durations, last_used = t.last_used
    FROM told t
    WHERE t.version = '' AND a.publisher_id = p_publisher AND a.id = p_agent;
END $$;


-- Figures of a version that is published now, of an agent that is counted: from its bills alone, since somebody who ran a
-- version before there was one could else have all runs of an agent read. The caller holds the agent's row.
CREATE FUNCTION store_tell_version(p_publisher text, p_agent text, p_version text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_since timestamptz := store_since();
    v_first timestamp;
BEGIN
    SELECT min(d.day) INTO v_first FROM agent_day d
    WHERE d.publisher_id = p_publisher AND d.agent_id = p_agent AND d.version = p_version;
    UPDATE agent_version a SET
        runs = t.runs, failed = t.failed, cancelled = t.cancelled, own_runs = t.own_runs, credits = t.credits,
        weekly_runs = t.weekly_runs, weekly_credits = t.weekly_credits, unique_users = t.users,
        durations = t.durations, last_used = t.last_used
    FROM (
        SELECT
            count(*) FILTER (WHERE b.kind = 'completed') AS runs,
            count(*) FILTER (WHERE b.kind = 'failed') AS failed,
            count(*) FILTER (WHERE b.kind = 'cancelled') AS cancelled,
            count(*) FILTER (WHERE b.kind = 'own') AS own_runs,
            coalesce(sum(b.credits) FILTER (WHERE b.kind = 'completed'), 0) AS credits,
            count(*) FILTER (WHERE b.kind = 'completed' AND b.created_at >= v_since) AS weekly_runs,
            coalesce(sum(b.credits) FILTER (WHERE b.kind = 'completed' AND b.created_at >= v_since), 0)
                AS weekly_credits,
            count(DISTINCT b.user_id) FILTER (WHERE b.kind = 'completed') AS users,
            coalesce(
                store_histogram(store_bucket(b.duration_ms), 1) FILTER (WHERE b.kind = 'completed'),
                array_fill(0::bigint, ARRAY[16])
            ) AS durations,
            max(b.created_at) FILTER (WHERE b.kind = 'completed') AS last_used
        FROM (SELECT b.*, store_kind(b.status, b.own) AS kind FROM agent_run_bill b) b
        WHERE b.publisher_id = p_publisher AND b.agent_id = p_agent AND b.version = p_version
            AND b.created_at >= v_first AT TIME ZONE 'UTC'
    ) t
    WHERE a.publisher_id = p_publisher AND a.agent_id = p_agent AND a.version = p_version;
END $$;


-- Count an agent anew from its runs and their calls: when it enters the store, or to mend its figures.
CREATE OR REPLACE FUNCTION store_recount(p_publisher text, p_agent text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_since timestamptz := store_since();
    v_listed boolean;
BEGIN
    PERFORM pg_advisory_xact_lock(store_agent_key(p_publisher, p_agent));
    PERFORM FROM agent a WHERE a.publisher_id = p_publisher AND a.id = p_agent FOR NO KEY UPDATE;
    v_listed := FOUND;
    PERFORM set_config('stoa.store_recount', 'on', true);
    IF v_listed THEN
        DELETE FROM agent_run_bill b
        WHERE b.publisher_id = p_publisher AND b.agent_id = p_agent
            AND NOT EXISTS (
                SELECT FROM finished_agent_run f
                WHERE f.run_id = b.run_id AND f.publisher_id = p_publisher AND f.agent_id = p_agent
            );
        INSERT INTO agent_run_bill AS b
        SELECT f.*
        FROM (
            SELECT r.id FROM agent_run r
            WHERE r.publisher_id = p_publisher AND r.agent_name = p_agent AND r.status = 'completed'
            UNION ALL
            SELECT r.id FROM agent_run r
            WHERE r.publisher_id = p_publisher AND r.agent_name = p_agent AND r.status IN ('failed', 'cancelled')
        ) r
        JOIN finished_agent_run f ON f.run_id = r.id
        LEFT JOIN agent_run_bill k ON k.run_id = f.run_id
        WHERE (k.*) IS DISTINCT FROM (f.*)
        ON CONFLICT (run_id) DO UPDATE SET
            publisher_id = excluded.publisher_id, agent_id = excluded.agent_id, version = excluded.version,
            user_id = excluded.user_id, status = excluded.status, credits = excluded.credits,
            duration_ms = excluded.duration_ms, created_at = excluded.created_at, own = excluded.own;
    ELSE
        DELETE FROM agent_run_bill b WHERE b.publisher_id = p_publisher AND b.agent_id = p_agent;
    END IF;
    PERFORM set_config('stoa.store_recount', '', true);
    PERFORM store_tell(p_publisher, p_agent, v_since);
END $$;


-- Move the week on to the seven days before p_now, a day at most: what left it is subtracted. Never back. Returns where
-- the week begins now. Waits for whoever counts, and lets nobody count meanwhile.
CREATE OR REPLACE FUNCTION store_slide(p_now timestamptz) RETURNS timestamptz
LANGUAGE plpgsql AS $$
DECLARE
    v_since timestamptz;
    v_next timestamptz := p_now - interval '7 days';
BEGIN
    PERFORM pg_advisory_xact_lock(store_window_key());
    SELECT w.since INTO v_since FROM store_window w;
    IF NOT FOUND THEN
        INSERT INTO store_window (since) VALUES (v_next);
        RETURN v_next;
    END IF;
    v_next := least(v_next, v_since + interval '1 day');
    IF v_next <= v_since THEN
        RETURN v_since;
    END IF;
    PERFORM FROM agent a
    WHERE (a.publisher_id, a.id) IN (
        SELECT b.publisher_id, b.agent_id FROM agent_run_bill b
        WHERE b.created_at >= v_since AND b.created_at < v_next AND b.status = 'completed' AND NOT b.own
    )
    ORDER BY a.publisher_id, a.id FOR NO KEY UPDATE;
    WITH left_behind AS MATERIALIZED (
        SELECT b.publisher_id, b.agent_id, v.version, count(*) AS runs, sum(b.credits) AS credits
        FROM agent_run_bill b, LATERAL (VALUES (b.version), ('')) AS v (version)
        WHERE b.created_at >= v_since AND b.created_at < v_next AND b.status = 'completed' AND NOT b.own
        GROUP BY 1, 2, 3
    ),
    versions AS (
        UPDATE agent_version a
        SET weekly_runs = a.weekly_runs - l.runs, weekly_credits = a.weekly_credits - l.credits
        FROM left_behind l
        WHERE a.publisher_id = l.publisher_id AND a.agent_id = l.agent_id AND a.version = l.version
    )
    UPDATE agent a SET weekly_runs = a.weekly_runs - l.runs, weekly_credits = a.weekly_credits - l.credits
    FROM left_behind l
    WHERE l.version = '' AND a.publisher_id = l.publisher_id AND a.id = l.agent_id;
    UPDATE store_window SET since = v_next;
    RETURN v_next;
END $$;


CREATE OR REPLACE FUNCTION store_follow_bills() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    v_added agent_run_bill[];
    v_removed agent_run_bill[];
BEGIN
    IF current_setting('stoa.store_recount', true) = 'on' THEN
        RETURN NULL;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        SELECT array_agg(ROW(b.run_id, b.publisher_id, b.agent_id, b.version, b.user_id, b.status, b.credits,
            b.duration_ms, b.created_at, b.own)::agent_run_bill) INTO v_added FROM added b;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        SELECT array_agg(ROW(b.run_id, b.publisher_id, b.agent_id, b.version, b.user_id, b.status, b.credits,
            b.duration_ms, b.created_at, b.own)::agent_run_bill) INTO v_removed FROM removed b;
    END IF;
    IF v_added IS NOT NULL OR v_removed IS NOT NULL THEN
        PERFORM store_move(v_added, v_removed);
    END IF;
    RETURN NULL;
END $$;


CREATE OR REPLACE FUNCTION store_follow_deletion() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    v_run text;
BEGIN
    DELETE FROM agent_run_bill b USING removed r WHERE b.run_id = r.id;
    -- a run that stays and was counted for the calls of one that goes
    FOR v_run IN
        SELECT DISTINCT b.run_id
        FROM removed r, unnest(r.ancestor_run_ids) AS above (id) JOIN agent_run_bill b ON b.run_id = above.id
        ORDER BY 1
    LOOP
        PERFORM store_count(v_run);
    END LOOP;
    RETURN NULL;
END $$;


-- A call that is settled, whatever it costs: of runs that go on nothing is to do, but their locks make their finish wait
-- until the call can be seen. Runs that ended are counted again.
CREATE OR REPLACE FUNCTION store_follow_call() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    v_run text;
BEGIN
    FOREACH v_run IN ARRAY store_settling(ARRAY[NEW.run_id]) LOOP
        -- above the call's own run it only matters that there is one
        IF v_run = NEW.run_id OR NOT EXISTS (SELECT FROM agent_run_bill b WHERE b.run_id = v_run) THEN
            PERFORM store_count(v_run);
        END IF;
    END LOOP;
    RETURN NULL;
END $$;

DROP TRIGGER store_call_billed ON gateway_call;
CREATE TRIGGER store_call_billed AFTER INSERT OR UPDATE OF credits, state, run_id ON gateway_call
FOR EACH ROW WHEN (NEW.run_id IS NOT NULL AND NEW.state = 'settled')
EXECUTE FUNCTION store_follow_call();


-- As it was, with the locks of the runs above.
CREATE OR REPLACE FUNCTION gateway_settle_many(p_calls gateway_facts[], p_now timestamptz)
RETURNS TABLE (
    request_id text, message_id text, credits bigint, carry_credits bigint, micro_credits bigint,
    balance bigint, from_purchased bigint, debt bigint, duplicate boolean
)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    f gateway_facts;
    v_runs text[];
BEGIN
    PERFORM FROM credit_account a
    WHERE a.id IN (SELECT coalesce(c.org_id, c.user_id) FROM unnest(p_calls) c)
    ORDER BY a.id FOR UPDATE;
    SELECT array_agg(DISTINCT c.run_id) INTO v_runs FROM unnest(p_calls) c WHERE c.run_id IS NOT NULL;
    IF v_runs IS NOT NULL THEN
        PERFORM store_settling(v_runs);
    END IF;
    FOREACH f IN ARRAY p_calls LOOP
        RETURN QUERY SELECT * FROM gateway_settle(f, p_now);
    END LOOP;
END $$;

ALTER FUNCTION gateway_settle_many SET enable_seqscan = off;


-- Let the runs of publishers be their own, or no longer, as who owns them says now. Lets nobody count meanwhile.
-- p_user: of this person alone; of all without.
CREATE FUNCTION store_own_anew(p_publishers text[], p_user text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(store_window_key());
    UPDATE agent_run_bill b SET own = NOT b.own
    WHERE b.publisher_id = ANY (p_publishers) AND (p_user IS NULL OR b.user_id = p_user)
        AND b.own <> store_is_own(b.publisher_id, b.user_id);
END $$;


CREATE FUNCTION store_follow_member() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    v_member record;
    v_publishers text[];
BEGIN
    IF TG_OP = 'INSERT' THEN
        v_member := NEW;
    ELSE
        v_member := OLD;
    END IF;
    -- of who is deleted the runs are gone already
    SELECT array_agg(p.id) INTO v_publishers
    FROM publisher p JOIN "user" u ON u.id = v_member.user_id
    WHERE p.org_id = v_member.org_id;
    IF v_publishers IS NOT NULL THEN
        PERFORM store_own_anew(v_publishers, v_member.user_id);
    END IF;
    RETURN NULL;
END $$;

-- The keys of a membership never change.
CREATE CONSTRAINT TRIGGER store_member_changed AFTER INSERT OR DELETE ON org_member DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION store_follow_member();


CREATE FUNCTION store_follow_owner() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM store_own_anew(ARRAY[NEW.id], NULL);
    RETURN NULL;
END $$;

CREATE CONSTRAINT TRIGGER store_owner_changed AFTER UPDATE ON publisher DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW WHEN (OLD.user_id IS DISTINCT FROM NEW.user_id OR OLD.org_id IS DISTINCT FROM NEW.org_id)
EXECUTE FUNCTION store_follow_owner();
