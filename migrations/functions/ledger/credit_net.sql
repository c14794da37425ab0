-- What an account has at a moment: grants that count, less debt. Volatile: called under the lock, it has to see all
-- that the former holder committed.
CREATE OR REPLACE FUNCTION credit_net(p_account text, p_now timestamptz) RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RETURN (SELECT coalesce(sum(g.balance), 0) FROM credit_active_grants(p_account, p_now) g WHERE g.balance <> 0);
END $$;
