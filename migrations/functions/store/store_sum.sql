-- The sum of two histograms.
CREATE OR REPLACE FUNCTION store_sum(p_one bigint[], p_other bigint[]) RETURNS bigint[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (SELECT array_agg(u.x + u.y ORDER BY u.n) FROM unnest(p_one, p_other) WITH ORDINALITY AS u (x, y, n));
