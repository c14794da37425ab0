-- Aggregate: the histogram of (bucket, runs).
CREATE OR REPLACE AGGREGATE store_histogram (int, bigint) (
    SFUNC = store_tally, STYPE = bigint[], INITCOND = '{0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0}'
);
