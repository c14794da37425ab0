-- Trigger. Keeps agent.stars; a deleted user takes their stars along.
CREATE OR REPLACE FUNCTION store_star() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        UPDATE agent SET stars = stars + 1 WHERE publisher_id = NEW.publisher_id AND id = NEW.agent_id;
    ELSE
        UPDATE agent SET stars = stars - 1 WHERE publisher_id = OLD.publisher_id AND id = OLD.agent_id;
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER store_star AFTER INSERT OR DELETE ON agent_star FOR EACH ROW EXECUTE FUNCTION store_star();
