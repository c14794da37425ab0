-- Whether the budgets of an account, and the envelope of the run, leave enough for the hold of a call, which is not written
-- yet. Outcome NULL: they do, or none is in force. 'budget': one leaves less even without calls in flight. 'budget_held': calls
-- in flight hold too much. envelope: the run whose envelope it is; run_left: what that leaves without the hold. The caller holds
-- the account's lock; the envelope is locked too.
CREATE OR REPLACE FUNCTION budget_admit(
    p_hold credit_hold, p_now timestamptz, OUT outcome text, OUT refusal jsonb, OUT envelope text, OUT run_left bigint
)
LANGUAGE plpgsql AS $$
DECLARE
    v_start timestamptz;
BEGIN
    IF p_hold.envelope_run_id IS NOT NULL AND p_hold.funding <> 'byok' THEN
        SELECT l.run_id, l.free - p_hold.amount INTO envelope, run_left
        FROM run_budget_left(p_hold.envelope_run_id, p_hold.request_id, p_now) l;
    END IF;
    p_hold.envelope_run_id := envelope;
    PERFORM FROM budget b WHERE b.account_id = p_hold.account_id AND b.ended_at IS NULL LIMIT 1;
    IF FOUND THEN
        PERFORM FROM budget_limits(
            p_hold.account_id, p_hold.user_id, p_hold.key_id, p_hold.team_id, p_hold.agent_id, p_hold.root_run_id,
            p_hold.request_id, p_now
        ) l
        WHERE l.hard AND l.free < p_hold.amount AND (l.count_byok OR p_hold.funding <> 'byok');
    END IF;
    IF NOT FOUND AND coalesce(run_left >= 0, true) THEN
        RETURN;
    END IF;
    refusal := budget_refusal(p_hold, p_hold.amount, p_now);
    outcome := CASE
        WHEN (refusal ->> 'free')::bigint + (refusal ->> 'held')::bigint >= p_hold.amount THEN 'budget_held' ELSE 'budget'
    END;
    IF outcome = 'budget' AND refusal ->> 'budget_id' IS NOT NULL THEN
        SELECT budget_window(refusal ->> 'period', p_now, a.time_zone) INTO v_start
        FROM credit_account a WHERE a.id = p_hold.account_id;
        INSERT INTO budget_spend AS u (budget_id, subject, window_start, spent, stopped_at)
        VALUES (refusal ->> 'budget_id', refusal ->> 'subject', v_start, 0, p_now)
        ON CONFLICT (budget_id, subject, window_start) DO UPDATE SET stopped_at = p_now WHERE u.stopped_at IS NULL;
    END IF;
END $$;
