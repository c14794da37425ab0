-- Net balance of an account at p_now: active grants minus debt. VOLATILE: called under the account's lock, it must see
-- what the previous lock holder committed.
CREATE OR REPLACE FUNCTION credit_net(p_account text, p_now timestamptz) RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RETURN (SELECT coalesce(sum(g.balance), 0) FROM credit_active_grants(p_account, p_now) g WHERE g.balance <> 0);
END $$;
