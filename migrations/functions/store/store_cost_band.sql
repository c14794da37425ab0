-- The range of a median cost of a run in credits, as `agent_costs.BANDS` names it; null for null.
CREATE OR REPLACE FUNCTION store_cost_band(p_median bigint) RETURNS text
LANGUAGE sql IMMUTABLE RETURN CASE WHEN p_median <= 1 THEN '1' WHEN p_median <= 10 THEN '10' WHEN p_median <= 100 THEN '100'
    WHEN p_median > 100 THEN 'more' END;
