-- The bucket (1 to 16) of a duration in agent.durations. Must match the edges in `models/store/statistics/durations.py`.
CREATE OR REPLACE FUNCTION store_bucket(p_ms bigint) RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN 1 + width_bucket(p_ms, ARRAY[
    250, 500, 1000, 2000, 5000, 10000, 20000, 40000, 60000, 120000, 300000, 600000, 1200000, 3600000, 7200000
]::bigint[]);
