-- The key of the window's advisory lock.
CREATE OR REPLACE FUNCTION store_window_key() RETURNS bigint
LANGUAGE sql IMMUTABLE
RETURN hashtextextended('store window', 0);
