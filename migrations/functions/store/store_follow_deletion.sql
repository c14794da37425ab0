-- Trigger. Runs were deleted: queue them and their ancestors, which may have been counted because of their calls
-- (store_apply).
CREATE OR REPLACE FUNCTION store_follow_deletion() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO store_queue (run_id, publisher_id, agent_id)
    SELECT r.id, r.publisher_id, r.agent_name FROM removed r WHERE r.publisher_id IS NOT NULL AND r.status <> 'running'
    UNION
    SELECT a.id, a.publisher_id, a.agent_name
    FROM removed r, unnest(r.ancestor_run_ids) AS above (id) JOIN agent_run a ON a.id = above.id
    WHERE a.publisher_id IS NOT NULL;
    RETURN NULL;
END $$;

CREATE TRIGGER store_runs_removed AFTER DELETE ON agent_run
REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION store_follow_deletion();
