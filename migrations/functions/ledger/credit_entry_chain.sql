-- Chain each new entry to the account's entry before it: credit_entry_hash, written out because a call of it costs a settlement
-- 3 % more. Relies on the account's lock, which whoever inserts entries holds. Comparing rows finds the entry before by
-- idx_credit_entry_account in any plan; if that is another account's, there is none.
CREATE OR REPLACE FUNCTION credit_entry_chain() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    NEW.hash := sha256(convert_to(array_to_json(ARRAY[
        coalesce((
            SELECT CASE WHEN e.account_id = NEW.account_id THEN encode(e.hash, 'hex') END FROM credit_entry e
            WHERE (e.account_id, e.id) < (NEW.account_id, NEW.id)
            ORDER BY e.account_id DESC, e.id DESC LIMIT 1
        ), '0000000000000000000000000000000000000000000000000000000000000000'),
        NEW.account_id, NEW.id::text, to_char(NEW.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        NEW.kind, NEW.amount::text, NEW.grant_balance_after::text, NEW.balance_after::text,
        NEW.operation_id, NEW.cause, NEW.message_id
    ])::text, 'UTF8'));
    RETURN NEW;
END $$;

CREATE TRIGGER credit_entry_chain BEFORE INSERT ON credit_entry
    FOR EACH ROW EXECUTE FUNCTION credit_entry_chain();
