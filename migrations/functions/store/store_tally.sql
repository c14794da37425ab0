-- The histogram with p_runs more in a bucket: transition function of the aggregate store_histogram.
CREATE OR REPLACE FUNCTION store_tally(p_histogram bigint[], p_bucket int, p_runs bigint) RETURNS bigint[]
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    p_histogram[p_bucket] := p_histogram[p_bucket] + p_runs;
    RETURN p_histogram;
END $$;
