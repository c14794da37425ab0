-- Trigger. A publisher changed owner: update which runs are its own.
CREATE OR REPLACE FUNCTION store_follow_owner() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM store_own_anew(ARRAY[NEW.id], NULL);
    RETURN NULL;
END $$;

CREATE CONSTRAINT TRIGGER store_owner_changed AFTER UPDATE ON publisher DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW WHEN (OLD.user_id IS DISTINCT FROM NEW.user_id OR OLD.org_id IS DISTINCT FROM NEW.org_id)
EXECUTE FUNCTION store_follow_owner();
