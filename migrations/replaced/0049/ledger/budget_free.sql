-- What the budgets in force and the run's envelope leave for the hold of a call in flight, which is not counted itself; NULL
-- without any. The caller holds the account's lock.
CREATE OR REPLACE FUNCTION budget_free(p_hold credit_hold, p_now timestamptz) RETURNS bigint
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    v_free bigint;
BEGIN
    PERFORM FROM budget b WHERE b.account_id = p_hold.account_id AND b.ended_at IS NULL LIMIT 1;
    IF FOUND THEN
        SELECT min(l.free) INTO v_free
        FROM budget_limits(
            p_hold.account_id, p_hold.user_id, p_hold.key_id, p_hold.team_id, p_hold.agent_id, p_hold.root_run_id,
            p_hold.request_id, p_now
        ) l
        WHERE l.hard AND (l.count_byok OR p_hold.funding <> 'byok');
    END IF;
    IF p_hold.envelope_run_id IS NOT NULL THEN
        SELECT least(v_free, l.free) INTO v_free FROM run_budget_left(p_hold.envelope_run_id, p_hold.request_id, p_now) l;
    END IF;
    RETURN v_free;
END $$;
