-- Refuse to delete a person whom an organisation's ledger references: calls, holds and grants would be deleted with them.
-- Delete the organisation first, or keep and anonymize the row. The row is locked before this trigger runs, so no new
-- references are written meanwhile.
CREATE OR REPLACE FUNCTION credit_keep_people() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM credit_ledger l WHERE l.user_id = OLD.id AND l.org_id IS NOT NULL)
        OR EXISTS (SELECT FROM gateway_call c WHERE c.user_id = OLD.id AND c.user_id <> c.account_id)
        OR EXISTS (SELECT FROM credit_hold h WHERE h.user_id = OLD.id AND h.account_id <> OLD.id)
    THEN
        RAISE EXCEPTION 'the books of an organisation name this person' USING ERRCODE = 'ST423';
    END IF;
    RETURN OLD;
END $$;

CREATE TRIGGER credit_keep_people BEFORE DELETE ON "user" FOR EACH ROW EXECUTE FUNCTION credit_keep_people();
