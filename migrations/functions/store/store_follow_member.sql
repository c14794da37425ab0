-- Trigger. A user joined or left an organisation: update which runs are its publishers' own.
CREATE OR REPLACE FUNCTION store_follow_member() RETURNS trigger
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
