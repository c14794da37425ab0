-- The next total of a budget: p_total with p_credits, if that is within p_limit.
CREATE OR REPLACE FUNCTION capped_add(p_total bigint, p_credits bigint, p_limit bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN p_total + p_credits <= p_limit THEN p_total + p_credits ELSE p_total END
$$;
