-- Trigger. Deferred to commit, so that publishers wait for each other's commits only. The stamp is the transaction id:
-- written once per transaction.
CREATE OR REPLACE FUNCTION store_changed() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    v_now text := pg_current_xact_id()::text;
BEGIN
    IF current_setting('stoa.stamped', true) IS DISTINCT FROM v_now THEN
        INSERT INTO store_stamp AS kept (stamp) VALUES (v_now::bigint)
        ON CONFLICT (id) DO UPDATE SET stamp = EXCLUDED.stamp;
        PERFORM store_count_facets();
        PERFORM set_config('stoa.stamped', v_now, true);
    END IF;
    RETURN NULL;
END $$;

CREATE CONSTRAINT TRIGGER store_changed AFTER INSERT OR DELETE OR UPDATE OF name, bio, email, verified, avatar_url ON publisher
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION store_changed();

CREATE CONSTRAINT TRIGGER store_changed AFTER INSERT OR DELETE OR UPDATE OF
    name, description, tags, model, latest_version, versions, readme, deprecated_at, deprecated_reason, successor, published_at
ON agent
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION store_changed();

CREATE CONSTRAINT TRIGGER store_changed AFTER INSERT OR DELETE OR UPDATE OF yanked_at, yanked_reason ON agent_version
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION store_changed();

CREATE CONSTRAINT TRIGGER store_changed AFTER INSERT OR DELETE OR UPDATE OF data, updated_at ON agent_config
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION store_changed();

CREATE CONSTRAINT TRIGGER store_changed AFTER INSERT OR DELETE OR UPDATE ON takedown
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION store_changed();

CREATE CONSTRAINT TRIGGER store_changed AFTER INSERT OR DELETE OR UPDATE OF picture ON remote_picture
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION store_changed();
