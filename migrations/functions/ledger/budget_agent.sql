-- The agent of an agent id without its version: budgets of an agent cover all its versions.
CREATE OR REPLACE FUNCTION budget_agent(p_agent text) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN p_agent ~ '^[^/@]+/[^/@]+@[^/@]+$' THEN split_part(p_agent, '@', 1) ELSE p_agent END
$$;
