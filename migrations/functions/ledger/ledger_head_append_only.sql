-- Recorded heads of the ledger never change. Exception: erasing an account, with `SET LOCAL stoa.erase_account = '<account id>'`,
-- forgets whose leaf a leaf was; its hash stays, so that the other accounts' proofs do.
CREATE OR REPLACE FUNCTION ledger_head_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND TG_TABLE_NAME = 'ledger_head_leaf' THEN
        IF current_setting('stoa.erase_account', true) = OLD.account_id
            AND (NEW.day, NEW.leaf) = (OLD.day, OLD.leaf)
            AND num_nonnulls(NEW.account_id, NEW.entry_id, NEW.entries) = 0
        THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION '% is append-only: % is refused', TG_TABLE_NAME, TG_OP USING ERRCODE = 'restrict_violation';
END $$;

CREATE TRIGGER ledger_head_append_only BEFORE UPDATE OR DELETE ON ledger_head
    FOR EACH ROW EXECUTE FUNCTION ledger_head_append_only();

CREATE TRIGGER ledger_head_no_truncate BEFORE TRUNCATE ON ledger_head
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_head_append_only();

CREATE TRIGGER ledger_head_leaf_append_only BEFORE UPDATE OR DELETE ON ledger_head_leaf
    FOR EACH ROW EXECUTE FUNCTION ledger_head_append_only();

CREATE TRIGGER ledger_head_leaf_no_truncate BEFORE TRUNCATE ON ledger_head_leaf
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_head_append_only();
