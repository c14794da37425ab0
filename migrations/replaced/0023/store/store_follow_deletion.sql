-- Runs are deleted, all of one statement at once.
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

CREATE TRIGGER store_runs_removed AFTER DELETE ON agent_run
REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION store_follow_deletion();
