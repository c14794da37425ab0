-- Counts what the kept responses of each account take. Rows are locked in the order of their accounts.
CREATE OR REPLACE FUNCTION stored_response_count() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO response_storage AS s (account_id, bytes)
        SELECT c.account_id, sum(c.size) FROM changed c GROUP BY c.account_id ORDER BY c.account_id
        ON CONFLICT (account_id) DO UPDATE SET bytes = s.bytes + excluded.bytes;
        RETURN NULL;
    END IF;
    PERFORM FROM response_storage s WHERE s.account_id IN (SELECT c.account_id FROM changed c)
    ORDER BY s.account_id FOR UPDATE;
    UPDATE response_storage s SET bytes = greatest(s.bytes - c.bytes, 0)
    FROM (SELECT account_id, sum(size) AS bytes FROM changed GROUP BY account_id) c
    WHERE s.account_id = c.account_id;
    RETURN NULL;
END $$;

CREATE TRIGGER stored_response_kept AFTER INSERT ON stored_response
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION stored_response_count();

CREATE TRIGGER stored_response_gone AFTER DELETE ON stored_response
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION stored_response_count();
