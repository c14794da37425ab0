-- Chain each new entry to the account's entry before it. While that has no hash, migration 0032 has not yet reached the end of
-- the account and will hash this entry too. Relies on the account's lock, which whoever inserts entries holds.
CREATE OR REPLACE FUNCTION credit_entry_chain() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    v_account text;
    v_hash bytea;
BEGIN
    SELECT e.account_id, e.hash INTO v_account, v_hash FROM credit_entry e
    WHERE (e.account_id, e.id) < (NEW.account_id, NEW.id)
    ORDER BY e.account_id DESC, e.id DESC LIMIT 1;
    IF v_account IS DISTINCT FROM NEW.account_id THEN
        v_hash := '\x0000000000000000000000000000000000000000000000000000000000000000';
    END IF;
    NEW.hash := CASE WHEN v_hash IS NOT NULL THEN credit_entry_hash(v_hash, NEW) END;
    RETURN NEW;
END $$;

CREATE TRIGGER credit_entry_chain BEFORE INSERT ON credit_entry
    FOR EACH ROW EXECUTE FUNCTION credit_entry_chain();
