-- Run a person's monthly quota cycle if it is due (contract 3.6). Of two concurrent calls, only the first renews.
CREATE OR REPLACE FUNCTION credit_quota(
    p_user text, p_free bigint, p_now timestamptz,
    OUT next_reset timestamptz, OUT renewed boolean, OUT free bigint, OUT referral bigint
)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_reset timestamp;
    v_now timestamp := p_now AT TIME ZONE 'UTC';
    v_months int;
    v_stamp text;
BEGIN
    renewed := false;
    free := 0;
    referral := 0;
    FOR v_look IN 1..2 LOOP
        IF v_look = 2 THEN
            PERFORM credit_account_lock(p_user, NULL);
        END IF;
        SELECT u.next_quota_reset INTO v_reset FROM "user" u WHERE u.id = p_user;
        IF v_reset > v_now THEN
            next_reset := v_reset AT TIME ZONE 'UTC';
            RETURN;
        END IF;
    END LOOP;
    IF v_reset IS NULL OR v_reset < v_now - interval '50 years' THEN
        v_reset := v_now;
    END IF;
    v_months := extract(year FROM age(v_now, v_reset)) * 12 + extract(month FROM age(v_now, v_reset));
    WHILE v_reset + v_months * interval '1 month' <= v_now LOOP
        v_months := v_months + 1;
    END LOOP;
    v_reset := v_reset + v_months * interval '1 month';
    next_reset := v_reset AT TIME ZONE 'UTC';
    renewed := true;
    UPDATE "user" SET next_quota_reset = v_reset WHERE id = p_user;
    v_stamp := to_char(v_reset, 'YYYY-MM-DD"T"HH24:MI');
    SELECT least(l.principal, 2000) INTO free FROM credit_ledger l
    WHERE l.user_id = p_user AND l.org_id IS NULL AND l.type = 'free' AND l.expires_at <= p_now
    ORDER BY l.expires_at DESC, l.created_at DESC
    LIMIT 1;
    IF NOT FOUND THEN
        free := p_free;
    END IF;
    IF free > 0 THEN
        PERFORM credit_grant('free-' || p_user || '-' || v_stamp, p_user, NULL, free, 'free', 20,
            'Monthly free credits', next_reset, p_now);
    END IF;
    SELECT coalesce(sum(r.credits), 0) INTO referral FROM referral r WHERE p_user IN (r.referrer_id, r.referred_id);
    IF referral > 0 THEN
        PERFORM credit_grant('referral-' || p_user || '-' || v_stamp, p_user, NULL, credit_quota.referral, 'referral', 40,
            'Monthly referral bonus', next_reset, p_now);
    END IF;
END $$;
