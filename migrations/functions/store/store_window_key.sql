-- The advisory lock key of the 7-day window.
CREATE OR REPLACE FUNCTION store_window_key() RETURNS bigint
LANGUAGE sql IMMUTABLE
RETURN hashtextextended('store window', 0);
