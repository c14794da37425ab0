-- A deleted key or command line session takes the command line sessions along that it approved. Those that a browser approved are ended
-- by what signs it out.
CREATE OR REPLACE FUNCTION session_follow_creator() RETURNS trigger
LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    DELETE FROM session s WHERE s."userId" = OLD."userId" AND s.type = 'cli' AND s.parent = OLD."sessionToken";
    RETURN NULL;
END $$;

CREATE TRIGGER session_follow_creator AFTER DELETE ON session
FOR EACH ROW WHEN (OLD.type <> 'web') EXECUTE FUNCTION session_follow_creator();
