-- Every organisation has a default team.
CREATE OR REPLACE FUNCTION org_default_team() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO org_team (org_id, name, is_default) VALUES (NEW.id, 'Everyone', true);
    RETURN NULL;
END $$;

CREATE TRIGGER org_default_team AFTER INSERT ON org
    FOR EACH ROW EXECUTE FUNCTION org_default_team();
