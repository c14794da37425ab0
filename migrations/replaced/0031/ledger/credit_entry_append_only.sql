-- Ledger entries are append-only. Exception: erasing a whole account, with `SET LOCAL stoa.erase_account = '<account id>'`.
CREATE OR REPLACE FUNCTION credit_entry_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF current_setting('stoa.erase_account', true) = OLD.account_id THEN
            RETURN OLD;
        END IF;
    END IF;
    RAISE EXCEPTION 'credit_entry is append-only: % is refused', TG_OP USING ERRCODE = 'restrict_violation';
END $$;

CREATE TRIGGER credit_entry_append_only BEFORE UPDATE OR DELETE ON credit_entry
    FOR EACH ROW EXECUTE FUNCTION credit_entry_append_only();

CREATE TRIGGER credit_entry_no_truncate BEFORE TRUNCATE ON credit_entry
    FOR EACH STATEMENT EXECUTE FUNCTION credit_entry_append_only();
