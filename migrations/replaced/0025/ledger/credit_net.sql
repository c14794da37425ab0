-- What an account has at a moment: grants that count, less debt. Volatile: called under the lock, it has to see all
-- that the former holder committed.
CREATE OR REPLACE FUNCTION credit_net(p_account text, p_now timestamptz) RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RETURN (
        SELECT coalesce(sum(l.balance), 0) FROM credit_ledger l
        WHERE coalesce(l.org_id, l.user_id) = p_account AND l.balance <> 0
            AND (l.expires_at IS NULL OR l.expires_at > p_now OR l.balance < 0)
    );
END $$;
