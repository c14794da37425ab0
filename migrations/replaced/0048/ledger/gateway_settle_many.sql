-- Settle several calls in one transaction. Locks the accounts first, ordered by id.
CREATE OR REPLACE FUNCTION gateway_settle_many(p_calls gateway_facts[], p_now timestamptz)
RETURNS TABLE (
    request_id text, message_id text, credits bigint, carry_credits bigint, micro_credits bigint,
    balance bigint, from_purchased bigint, debt bigint, duplicate boolean
)
LANGUAGE plpgsql SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    f gateway_facts;
BEGIN
    PERFORM FROM credit_account a
    WHERE a.id IN (SELECT coalesce(c.org_id, c.user_id) FROM unnest(p_calls) c)
    ORDER BY a.id FOR UPDATE;
    FOREACH f IN ARRAY p_calls LOOP
        RETURN QUERY SELECT * FROM gateway_settle(f, p_now);
    END LOOP;
END $$;
