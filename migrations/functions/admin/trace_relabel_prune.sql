-- Relabels are made of a call's messages and end with them.
CREATE OR REPLACE FUNCTION trace_relabel_prune() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM trace_relabel WHERE message_id = NEW.id;
    RETURN NULL;
END $$;

CREATE TRIGGER trace_relabel_prune AFTER UPDATE OF request ON message
    FOR EACH ROW WHEN (OLD.request IS NOT NULL AND NEW.request IS NULL) EXECUTE FUNCTION trace_relabel_prune();
