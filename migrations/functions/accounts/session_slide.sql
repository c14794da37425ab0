-- Extends a command line session to a year after each recorded use, whether pages, JSON or the ledger record it. One with a fixed
-- expiry keeps it.
CREATE OR REPLACE FUNCTION session_slide() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF NOT NEW.fixed_expiry THEN
        NEW.expires := NEW.last_used_at + interval '365 days';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER session_slide BEFORE UPDATE OF last_used_at ON session
FOR EACH ROW WHEN (NEW.type = 'cli' AND NEW.last_used_at IS NOT NULL) EXECUTE FUNCTION session_slide();
