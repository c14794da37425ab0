-- The row of a key with an id of its own outlives its session, which is the credential: a deleted session revokes the key, and
-- what is shown of it is kept. A deleted key takes the keys along that it created. While the session lives, its owner is the key's.
CREATE OR REPLACE FUNCTION api_key_follow_session() RETURNS trigger
LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        DELETE FROM session s WHERE s."userId" = OLD."userId" AND s.type = 'pat' AND s.parent = OLD."sessionToken";
        UPDATE api_key k SET
            revoked_at = now(), updated_at = now(), active = false, name = OLD.name,
            expires_at = nullif(OLD.expires, '9999-01-01'::timestamp) AT TIME ZONE 'UTC',
            last_used_at = OLD.last_used_at AT TIME ZONE 'UTC'
        WHERE k.key_id = OLD."sessionToken" AND k.revoked_at IS NULL;
    ELSE
        UPDATE api_key k SET user_id = NEW."userId", updated_at = now() WHERE k.key_id = NEW."sessionToken";
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER api_key_follow_session AFTER DELETE ON session
FOR EACH ROW WHEN (OLD.type = 'pat') EXECUTE FUNCTION api_key_follow_session();

CREATE TRIGGER api_key_follow_owner AFTER UPDATE OF "userId" ON session
FOR EACH ROW WHEN (NEW."sessionToken" LIKE 'sk\_%') EXECUTE FUNCTION api_key_follow_session();
