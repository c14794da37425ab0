-- Lock an account, creating it on first use, and return its id: the organisation's, else the user's.
CREATE OR REPLACE FUNCTION credit_account_lock(p_user text, p_org text) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    v_account text := coalesce(p_org, p_user);
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'the ledger is written in READ COMMITTED transactions only' USING ERRCODE = '25001';
    END IF;
    PERFORM FROM credit_account WHERE id = v_account FOR UPDATE;
    IF FOUND THEN
        RETURN v_account;
    END IF;
    IF p_org IS NULL THEN
        INSERT INTO credit_account (id, user_id) SELECT id, id FROM "user" WHERE id = p_user ON CONFLICT DO NOTHING;
    ELSE
        INSERT INTO credit_account (id, org_id) SELECT id, id FROM org WHERE id = p_org ON CONFLICT DO NOTHING;
    END IF;
    PERFORM FROM credit_account WHERE id = v_account FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no account %', v_account USING ERRCODE = 'ST404';
    END IF;
    RETURN v_account;
END $$;
