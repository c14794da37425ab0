-- Balance of an account as shown to users: the net balance without a plan's blocks, which only its windows limit.
CREATE OR REPLACE FUNCTION credit_balance(p_account text, p_now timestamptz) RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RETURN (
        SELECT coalesce(sum(g.balance), 0) FROM credit_active_grants(p_account, p_now) g
        WHERE g.balance <> 0 AND g.type <> 'subscription'
    );
END $$;
