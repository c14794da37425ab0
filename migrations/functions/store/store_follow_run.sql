-- Trigger. A run finished or was corrected: queue it (store_apply).
CREATE OR REPLACE FUNCTION store_follow_run() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO store_queue (run_id, publisher_id, agent_id) VALUES (NEW.id, NEW.publisher_id, NEW.agent_name);
    RETURN NULL;
END $$;

CREATE TRIGGER store_run_added AFTER INSERT ON agent_run
FOR EACH ROW WHEN (NEW.publisher_id IS NOT NULL AND NEW.status <> 'running') EXECUTE FUNCTION store_follow_run();

CREATE TRIGGER store_run_changed AFTER UPDATE ON agent_run
FOR EACH ROW WHEN (
    (OLD.publisher_id IS NOT NULL OR NEW.publisher_id IS NOT NULL)
    AND (OLD.status <> 'running' OR NEW.status <> 'running')
) EXECUTE FUNCTION store_follow_run();
