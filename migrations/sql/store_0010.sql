-- The figures of the store's agents, kept in the transaction that finishes a run or bills one of its calls.
--
-- finished_agent_run says what a finished run counts for; agent_run_bill keeps, one row a run, what it was counted for.
-- Triggers on agent_run and gateway_call call store_count at the commit, which brings the row in line; triggers on
-- agent_run_bill move what changed into agent, agent_version, agent_day and agent_user. Only completed runs count in
-- runs, credits, weekly_*, unique_users, durations and last_used; others in failed and cancelled, their credits nowhere.
--
-- Locks, always in this order:
--   1  credit_account rows (migrations/sql/ledger_0003.sql), or the agent_run row of a finish
--   2  a run's advisory lock: its finish and the settlements of its calls, one after the other; several by id
--   3  the window's advisory lock: shared by all that count, alone by store_slide
--   4  agents by publisher_id and id: the advisory lock of an agent (shared to count, alone to enter the store), then
--      its row. Under the lock of the row its figures are written, those of versions, days and users too.
-- Isolation: READ COMMITTED; the statement after a lock sees all that the former holder committed.


-- 1 to 16: the bucket of a duration in agent.durations. `models/store/statistics.py` knows the same edges.
CREATE FUNCTION store_bucket(p_ms bigint) RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN 1 + width_bucket(p_ms, ARRAY[
    250, 500, 1000, 2000, 5000, 10000, 20000, 40000, 60000, 120000, 300000, 600000, 1200000, 3600000, 7200000
]::bigint[]);


CREATE FUNCTION store_tally(p_histogram bigint[], p_bucket int, p_runs bigint) RETURNS bigint[]
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    p_histogram[p_bucket] := p_histogram[p_bucket] + p_runs;
    RETURN p_histogram;
END $$;

CREATE AGGREGATE store_histogram (int, bigint) (
    SFUNC = store_tally, STYPE = bigint[], INITCOND = '{0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0}'
);

CREATE FUNCTION store_sum(p_one bigint[], p_other bigint[]) RETURNS bigint[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (SELECT array_agg(u.x + u.y ORDER BY u.n) FROM unnest(p_one, p_other) WITH ORDINALITY AS u (x, y, n));


-- What each finished run of a published agent counts for. Calls paid with the caller's own provider key cost nothing.
CREATE VIEW finished_agent_run AS
SELECT
    r.id AS run_id, r.publisher_id, r.agent_name AS agent_id, r.agent_version AS version, r.user_id,
    r.status::text AS status,
    (
        SELECT coalesce(sum(c.credits), 0)::bigint
        FROM gateway_call c LEFT JOIN message m ON m.id = c.message_id
        WHERE c.run_id = r.id AND c.state = 'settled' AND m.byok IS NOT TRUE
    ) AS credits,
    greatest(coalesce(r.duration_ms, 0), 0)::bigint AS duration_ms,
    r.created_at
FROM agent_run r
WHERE r.status <> 'running' AND r.publisher_id IS NOT NULL AND r.agent_id <> 'test-agent';


-- An agent that enters the store is counted by its runs: the completed ones have their index, these the others.
CREATE INDEX idx_agent_run_unsuccessful ON agent_run (publisher_id, agent_name) WHERE status IN ('failed', 'cancelled');

-- Of a run that is deleted the figures are subtracted, of all that one statement deletes at once. The reference waits
-- for the end of the transaction, so that the rows go with the runs and not one by one before them.
ALTER TABLE agent_run_bill
    DROP CONSTRAINT agent_run_bill_run_id_fkey,
    ADD CONSTRAINT agent_run_bill_run_id_fk FOREIGN KEY (run_id) REFERENCES agent_run (id)
        ON DELETE NO ACTION DEFERRABLE INITIALLY DEFERRED;

-- Counted up without a change to an index: room for the new version on the same page.
ALTER TABLE agent_run_bill SET (fillfactor = 90);
ALTER TABLE agent_version SET (fillfactor = 80);
ALTER TABLE agent_day SET (fillfactor = 80);
ALTER TABLE agent_user SET (fillfactor = 80);


CREATE FUNCTION store_run_lock(p_run text) RETURNS void
LANGUAGE sql VOLATILE AS $$
    SELECT pg_advisory_xact_lock(hashtextextended('store run ' || p_run, 0));
$$;

CREATE FUNCTION store_agent_key(p_publisher text, p_agent text) RETURNS bigint
LANGUAGE sql IMMUTABLE
RETURN hashtextextended('store agent ' || p_publisher || '/' || p_agent, 0);

CREATE FUNCTION store_window_key() RETURNS bigint
LANGUAGE sql IMMUTABLE
RETURN hashtextextended('store window', 0);


-- Since when runs count for the week. It stays so until the caller's transaction ends.
CREATE FUNCTION store_since() RETURNS timestamptz
LANGUAGE plpgsql AS $$
DECLARE
    v_since timestamptz;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'the store counts in READ COMMITTED transactions only' USING ERRCODE = '25001';
    END IF;
    PERFORM pg_advisory_xact_lock_shared(store_window_key());
    SELECT w.since INTO v_since FROM store_window w;
    IF NOT FOUND THEN
        INSERT INTO store_window (since) VALUES (now() - interval '7 days') ON CONFLICT DO NOTHING;
        SELECT w.since INTO v_since FROM store_window w;
    END IF;
    RETURN v_since;
END $$;


-- Bring what a run is counted for in line with what it and its calls are. Once or often: the same.
CREATE FUNCTION store_count(p_run text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_run record;
BEGIN
    PERFORM store_run_lock(p_run);
    SELECT r.publisher_id, r.agent_name INTO v_run FROM agent_run r
    WHERE r.id = p_run AND r.publisher_id IS NOT NULL AND r.status <> 'running'
    FOR KEY SHARE;
    IF FOUND THEN
        PERFORM store_since();
        PERFORM pg_advisory_xact_lock_shared(store_agent_key(v_run.publisher_id, v_run.agent_name));
        IF EXISTS (SELECT FROM agent a WHERE a.publisher_id = v_run.publisher_id AND a.id = v_run.agent_name) THEN
            INSERT INTO agent_run_bill AS b SELECT f.* FROM finished_agent_run f WHERE f.run_id = p_run
            ON CONFLICT (run_id) DO UPDATE SET
                publisher_id = excluded.publisher_id, agent_id = excluded.agent_id, version = excluded.version,
                user_id = excluded.user_id, status = excluded.status, credits = excluded.credits,
                duration_ms = excluded.duration_ms, created_at = excluded.created_at
            WHERE (b.*) IS DISTINCT FROM (excluded.*);
            RETURN;
        END IF;
    END IF;
    DELETE FROM agent_run_bill b WHERE b.run_id = p_run;
END $$;


-- Count runs in the figures of their agents, or take them out again.
CREATE FUNCTION store_move(p_added agent_run_bill[], p_removed agent_run_bill[]) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_since timestamptz := store_since();
BEGIN
    PERFORM FROM agent a
    WHERE (a.publisher_id, a.id) IN (SELECT c.publisher_id, c.agent_id FROM unnest(p_added || p_removed) c)
    ORDER BY a.publisher_id, a.id FOR NO KEY UPDATE;

    WITH change AS MATERIALIZED (
        SELECT b.*, b.status = 'completed' AS completed, store_bucket(b.duration_ms) AS bucket, 1 AS sign
        FROM unnest(p_added) b
        UNION ALL
        SELECT b.*, b.status = 'completed', store_bucket(b.duration_ms), -1 FROM unnest(p_removed) b
    ),
    people AS (
        SELECT c.publisher_id, c.agent_id, v.version, c.user_id, sum(c.sign) AS runs
        FROM change c, LATERAL (VALUES (c.version), ('')) AS v (version)
        WHERE c.completed AND c.user_id IS NOT NULL
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
            coalesce(sum(c.sign) FILTER (WHERE c.completed), 0) AS runs,
            coalesce(sum(c.sign) FILTER (WHERE c.status = 'failed'), 0) AS failed,
            coalesce(sum(c.sign) FILTER (WHERE c.status = 'cancelled'), 0) AS cancelled,
            coalesce(sum(c.sign * c.credits) FILTER (WHERE c.completed), 0) AS credits,
            coalesce(sum(c.sign) FILTER (WHERE c.completed AND c.created_at >= v_since), 0) AS weekly_runs,
            coalesce(sum(c.sign * c.credits) FILTER (WHERE c.completed AND c.created_at >= v_since), 0) AS weekly_credits,
            store_histogram(c.bucket, c.sign) FILTER (WHERE c.completed) AS durations,
            max(c.created_at) FILTER (WHERE c.completed AND c.sign > 0) AS came,
            max(c.created_at) FILTER (WHERE c.completed AND c.sign < 0) AS went
        FROM change c, LATERAL (VALUES (c.version), ('')) AS v (version)
        GROUP BY 1, 2, 3
    ),
    moved AS MATERIALIZED (
        SELECT s.*, coalesce(u.users, 0) AS users
        FROM sums s LEFT JOIN uniques u USING (publisher_id, agent_id, version)
    ),
    days AS (
        INSERT INTO agent_day AS d (publisher_id, agent_id, day, version, runs, failed, cancelled, credits)
        SELECT c.publisher_id, c.agent_id, (c.created_at AT TIME ZONE 'UTC')::date, c.version,
            coalesce(sum(c.sign) FILTER (WHERE c.completed), 0),
            coalesce(sum(c.sign) FILTER (WHERE c.status = 'failed'), 0),
            coalesce(sum(c.sign) FILTER (WHERE c.status = 'cancelled'), 0),
            coalesce(sum(c.sign * c.credits) FILTER (WHERE c.completed), 0)
        FROM change c GROUP BY 1, 2, 3, 4
        ON CONFLICT (publisher_id, agent_id, day, version) DO UPDATE SET
            runs = d.runs + excluded.runs, failed = d.failed + excluded.failed,
            cancelled = d.cancelled + excluded.cancelled, credits = d.credits + excluded.credits
    ),
    versions AS (
        UPDATE agent_version a SET
            runs = a.runs + m.runs, failed = a.failed + m.failed, cancelled = a.cancelled + m.cancelled,
            credits = a.credits + m.credits, weekly_runs = a.weekly_runs + m.weekly_runs,
            weekly_credits = a.weekly_credits + m.weekly_credits, unique_users = a.unique_users + m.users,
            durations = store_sum(a.durations, m.durations),
            last_used = CASE WHEN m.went >= a.last_used AND m.went > coalesce(m.came, '-infinity') THEN (
                SELECT max(b.created_at) FROM agent_run_bill b
                WHERE b.publisher_id = a.publisher_id AND b.agent_id = a.agent_id AND b.version = a.version
                    AND b.status = 'completed' AND b.created_at <= m.went
            ) ELSE greatest(a.last_used, m.came) END
        FROM moved m
        WHERE a.publisher_id = m.publisher_id AND a.agent_id = m.agent_id AND a.version = m.version
    )
    UPDATE agent a SET
        runs = a.runs + m.runs, failed = a.failed + m.failed, cancelled = a.cancelled + m.cancelled,
        credits = a.credits + m.credits, weekly_runs = a.weekly_runs + m.weekly_runs,
        weekly_credits = a.weekly_credits + m.weekly_credits, unique_users = a.unique_users + m.users,
        durations = store_sum(a.durations, m.durations),
        last_used = CASE WHEN m.went >= a.last_used AND m.went > coalesce(m.came, '-infinity') THEN (
            SELECT b.created_at FROM agent_run_bill b
            WHERE b.publisher_id = a.publisher_id AND b.agent_id = a.id
                AND b.status = 'completed' AND b.created_at <= m.went
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
            AND d.runs = 0 AND d.failed = 0 AND d.cancelled = 0 AND d.credits = 0;
    END IF;
END $$;


-- Figures told anew from agent_run_bill: an agent's and those of its versions. The caller holds the agent's row.
CREATE FUNCTION store_tell(p_publisher text, p_agent text, p_since timestamptz) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM agent_user u WHERE u.publisher_id = p_publisher AND u.agent_id = p_agent;
    DELETE FROM agent_day d WHERE d.publisher_id = p_publisher AND d.agent_id = p_agent;
    INSERT INTO agent_user (publisher_id, agent_id, version, user_id, runs)
    SELECT p_publisher, p_agent, v.version, b.user_id, count(*)
    FROM agent_run_bill b, LATERAL (VALUES (b.version), ('')) AS v (version)
    WHERE b.publisher_id = p_publisher AND b.agent_id = p_agent AND b.status = 'completed' AND b.user_id IS NOT NULL
    GROUP BY v.version, b.user_id;
    INSERT INTO agent_day (publisher_id, agent_id, day, version, runs, failed, cancelled, credits)
    SELECT p_publisher, p_agent, (b.created_at AT TIME ZONE 'UTC')::date, b.version,
        count(*) FILTER (WHERE b.status = 'completed'), count(*) FILTER (WHERE b.status = 'failed'),
        count(*) FILTER (WHERE b.status = 'cancelled'),
        coalesce(sum(b.credits) FILTER (WHERE b.status = 'completed'), 0)
    FROM agent_run_bill b WHERE b.publisher_id = p_publisher AND b.agent_id = p_agent
    GROUP BY 3, 4;

    -- one row for each version that ran or is published, and one for all together
    WITH ran AS (
        SELECT v.version,
            count(*) FILTER (WHERE b.status = 'completed') AS runs,
            count(*) FILTER (WHERE b.status = 'failed') AS failed,
            count(*) FILTER (WHERE b.status = 'cancelled') AS cancelled,
            sum(b.credits) FILTER (WHERE b.status = 'completed') AS credits,
            count(*) FILTER (WHERE b.status = 'completed' AND b.created_at >= p_since) AS weekly_runs,
            sum(b.credits) FILTER (WHERE b.status = 'completed' AND b.created_at >= p_since) AS weekly_credits,
            count(DISTINCT b.user_id) FILTER (WHERE b.status = 'completed') AS users,
            store_histogram(store_bucket(b.duration_ms), 1) FILTER (WHERE b.status = 'completed') AS durations,
            max(b.created_at) FILTER (WHERE b.status = 'completed') AS last_used
        FROM agent_run_bill b, LATERAL (VALUES (b.version), ('')) AS v (version)
        WHERE b.publisher_id = p_publisher AND b.agent_id = p_agent
        GROUP BY v.version
    ),
    told AS MATERIALIZED (
        SELECT n.version, coalesce(r.runs, 0) AS runs, coalesce(r.failed, 0) AS failed,
            coalesce(r.cancelled, 0) AS cancelled, coalesce(r.credits, 0) AS credits,
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
            runs = t.runs, failed = t.failed, cancelled = t.cancelled, credits = t.credits,
            weekly_runs = t.weekly_runs, weekly_credits = t.weekly_credits, unique_users = t.users,
            durations = t.durations, last_used = t.last_used
        FROM told t
        WHERE a.publisher_id = p_publisher AND a.agent_id = p_agent AND a.version = t.version
    )
    UPDATE agent a SET
        runs = t.runs, failed = t.failed, cancelled = t.cancelled, credits = t.credits,
        weekly_runs = t.weekly_runs, weekly_credits = t.weekly_credits, unique_users = t.users,
        durations = t.durations, last_used = t.last_used
    FROM told t
    WHERE t.version = '' AND a.publisher_id = p_publisher AND a.id = p_agent;
END $$;


-- Count an agent anew from its runs and their calls: when it enters the store, or to mend its figures.
CREATE FUNCTION store_recount(p_publisher text, p_agent text) RETURNS void
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
            duration_ms = excluded.duration_ms, created_at = excluded.created_at;
    ELSE
        DELETE FROM agent_run_bill b WHERE b.publisher_id = p_publisher AND b.agent_id = p_agent;
    END IF;
    PERFORM set_config('stoa.store_recount', '', true);
    PERFORM store_tell(p_publisher, p_agent, v_since);
END $$;


-- What a publication calls first: until it ends nothing is counted for agents of these ids. They are taken in one
-- order whoever publishes, so that nobody waits in a circle; store_recount and store_tell take no further lock then.
CREATE FUNCTION store_enter(p_publisher text, p_agents text[]) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_agent text;
BEGIN
    PERFORM store_since();
    FOR v_agent IN SELECT DISTINCT u.id FROM unnest(p_agents) AS u (id) ORDER BY 1 LOOP
        PERFORM pg_advisory_xact_lock(store_agent_key(p_publisher, v_agent));
        PERFORM FROM agent a WHERE a.publisher_id = p_publisher AND a.id = v_agent FOR NO KEY UPDATE;
    END LOOP;
END $$;


-- Move the week on to the seven days before p_now, a day at most: what left it is subtracted. Never back. Returns where
-- the week begins now. Waits for whoever counts, and lets nobody count meanwhile.
CREATE FUNCTION store_slide(p_now timestamptz) RETURNS timestamptz
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
        WHERE b.created_at >= v_since AND b.created_at < v_next AND b.status = 'completed'
    )
    ORDER BY a.publisher_id, a.id FOR NO KEY UPDATE;
    WITH left_behind AS MATERIALIZED (
        SELECT b.publisher_id, b.agent_id, v.version, count(*) AS runs, sum(b.credits) AS credits
        FROM agent_run_bill b, LATERAL (VALUES (b.version), ('')) AS v (version)
        WHERE b.created_at >= v_since AND b.created_at < v_next AND b.status = 'completed'
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


CREATE FUNCTION store_follow_bills() RETURNS trigger
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
            b.duration_ms, b.created_at)::agent_run_bill) INTO v_added FROM added b;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        SELECT array_agg(ROW(b.run_id, b.publisher_id, b.agent_id, b.version, b.user_id, b.status, b.credits,
            b.duration_ms, b.created_at)::agent_run_bill) INTO v_removed FROM removed b;
    END IF;
    IF v_added IS NOT NULL OR v_removed IS NOT NULL THEN
        PERFORM store_move(v_added, v_removed);
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER store_bills_added AFTER INSERT ON agent_run_bill
REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION store_follow_bills();
CREATE TRIGGER store_bills_changed AFTER UPDATE ON agent_run_bill
REFERENCING OLD TABLE AS removed NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION store_follow_bills();
CREATE TRIGGER store_bills_removed AFTER DELETE ON agent_run_bill
REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION store_follow_bills();


-- A run that ended, or was corrected afterwards. At the commit, so that the agent's row is held as briefly as can be.
CREATE FUNCTION store_follow_run() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM store_count(NEW.id);
    RETURN NULL;
END $$;

CREATE CONSTRAINT TRIGGER store_run_added AFTER INSERT ON agent_run DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW WHEN (NEW.publisher_id IS NOT NULL AND NEW.status <> 'running') EXECUTE FUNCTION store_follow_run();
CREATE CONSTRAINT TRIGGER store_run_changed AFTER UPDATE ON agent_run DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW WHEN (
    (OLD.publisher_id IS NOT NULL OR NEW.publisher_id IS NOT NULL)
    AND (OLD.status <> 'running' OR NEW.status <> 'running')
) EXECUTE FUNCTION store_follow_run();


CREATE FUNCTION store_follow_deletion() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM agent_run_bill b USING removed r WHERE b.run_id = r.id;
    RETURN NULL;
END $$;

CREATE TRIGGER store_runs_removed AFTER DELETE ON agent_run
REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION store_follow_deletion();


-- A call that is billed: while its run goes on nothing is to do, but the lock makes its finish wait until the call can
-- be seen. After the finish the run is counted again.
CREATE FUNCTION store_follow_call() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM store_run_lock(NEW.run_id);
    IF EXISTS (
        SELECT FROM agent_run r WHERE r.id = NEW.run_id AND r.publisher_id IS NOT NULL AND r.status <> 'running'
    ) THEN
        PERFORM store_count(NEW.run_id);
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER store_call_billed AFTER INSERT OR UPDATE OF credits, state, run_id ON gateway_call
FOR EACH ROW WHEN (NEW.run_id IS NOT NULL AND NEW.state = 'settled' AND NEW.credits > 0)
EXECUTE FUNCTION store_follow_call();


-- As ledger_0003.sql has it, with the locks of finished runs taken in order, too.
CREATE OR REPLACE FUNCTION gateway_settle_many(p_calls gateway_facts[], p_now timestamptz)
RETURNS TABLE (
    request_id text, message_id text, credits bigint, carry_credits bigint, micro_credits bigint,
    balance bigint, from_purchased bigint, debt bigint, duplicate boolean
)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    f gateway_facts;
    v_run text;
    v_agent record;
BEGIN
    PERFORM FROM credit_account a
    WHERE a.id IN (SELECT coalesce(c.org_id, c.user_id) FROM unnest(p_calls) c)
    ORDER BY a.id FOR UPDATE;
    FOR v_run IN SELECT DISTINCT c.run_id FROM unnest(p_calls) c WHERE c.run_id IS NOT NULL ORDER BY 1 LOOP
        PERFORM store_run_lock(v_run);
    END LOOP;
    IF v_run IS NOT NULL THEN
        FOR v_agent IN
            SELECT DISTINCT r.publisher_id, r.agent_name
            FROM agent_run r JOIN unnest(p_calls) c ON c.run_id = r.id
            WHERE r.publisher_id IS NOT NULL AND r.status <> 'running'
            ORDER BY 1, 2
        LOOP
            PERFORM store_since();
            PERFORM pg_advisory_xact_lock_shared(store_agent_key(v_agent.publisher_id, v_agent.agent_name));
            PERFORM FROM agent a
            WHERE a.publisher_id = v_agent.publisher_id AND a.id = v_agent.agent_name FOR NO KEY UPDATE;
        END LOOP;
    END IF;
    FOREACH f IN ARRAY p_calls LOOP
        RETURN QUERY SELECT * FROM gateway_settle(f, p_now);
    END LOOP;
END $$;
