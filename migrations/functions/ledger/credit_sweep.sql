-- Mark expired holds as lost; the rows stay for operators. Write off expired grants of at most p_accounts accounts, skipping
-- locked ones, which write off their own.
CREATE OR REPLACE FUNCTION credit_sweep(p_now timestamptz, p_accounts int, OUT holds int, OUT grants int, OUT credits bigint)
LANGUAGE plpgsql AS $$
DECLARE
    v_account text;
    v_expired record;
BEGIN
    grants := 0;
    credits := 0;
    UPDATE credit_hold SET state = 'lost', lost_at = p_now
    WHERE request_id IN (
        SELECT h.request_id FROM credit_hold h
        WHERE h.state = 'live' AND h.expires_at <= p_now
        FOR UPDATE SKIP LOCKED
    );
    GET DIAGNOSTICS holds = ROW_COUNT;
    FOR v_account IN
        SELECT a.id FROM credit_account a
        WHERE a.id IN (
            SELECT coalesce(l.org_id, l.user_id) FROM credit_ledger l
            WHERE l.balance > 0 AND l.expires_at <= p_now
        )
        ORDER BY a.id LIMIT p_accounts
        FOR UPDATE SKIP LOCKED
    LOOP
        SELECT e.credits, e.grants INTO v_expired FROM credit_expire(v_account, p_now) e;
        credits := credits + v_expired.credits;
        grants := grants + v_expired.grants;
    END LOOP;
END $$;
