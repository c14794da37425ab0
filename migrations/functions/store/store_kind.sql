-- In which figure a run is counted: completed, failed or cancelled; own, however it ended, when it is the publisher's.
CREATE OR REPLACE FUNCTION store_kind(p_status text, p_own boolean) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN p_own THEN 'own' ELSE p_status END;
