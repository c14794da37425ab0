-- The sum of those of the values, in order, that keep it within a limit.
CREATE OR REPLACE AGGREGATE capped_sum(credits bigint, credit_limit bigint) (
    SFUNC = capped_add, STYPE = bigint, INITCOND = '0'
);
