-- The grants of an account that are active at p_now: not expired, or in debt. The account's balance is the sum of their
-- balances; every balance is read from here.
CREATE OR REPLACE FUNCTION credit_active_grants(p_account text, p_now timestamptz) RETURNS SETOF credit_ledger
LANGUAGE sql STABLE AS $$
    SELECT l.* FROM credit_ledger l
    WHERE coalesce(l.org_id, l.user_id) = p_account
        AND (l.expires_at IS NULL OR l.expires_at > p_now OR l.balance < 0)
$$;
