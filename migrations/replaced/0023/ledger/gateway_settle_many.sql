-- Settle several calls in one transaction. The accounts are locked first, in the order of their ids, then what the store
-- counts of their runs.
CREATE OR REPLACE FUNCTION gateway_settle_many(p_calls gateway_facts[], p_now timestamptz)
RETURNS TABLE (
    request_id text, message_id text, credits bigint, carry_credits bigint, micro_credits bigint,
    balance bigint, from_purchased bigint, debt bigint, duplicate boolean
)
LANGUAGE plpgsql SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    f gateway_facts;
    v_runs text[];
BEGIN
    PERFORM FROM credit_account a
    WHERE a.id IN (SELECT coalesce(c.org_id, c.user_id) FROM unnest(p_calls) c)
    ORDER BY a.id FOR UPDATE;
    SELECT array_agg(DISTINCT c.run_id) INTO v_runs FROM unnest(p_calls) c WHERE c.run_id IS NOT NULL;
    IF v_runs IS NOT NULL THEN
        PERFORM store_settling(v_runs);
    END IF;
    FOREACH f IN ARRAY p_calls LOOP
        RETURN QUERY SELECT * FROM gateway_settle(f, p_now);
    END LOOP;
END $$;
