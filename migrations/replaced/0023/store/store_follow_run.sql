-- A run that ended, or was corrected afterwards. At the commit, so that the agent's row is held as briefly as can be.
CREATE OR REPLACE FUNCTION store_follow_run() RETURNS trigger
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
