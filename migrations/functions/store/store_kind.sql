-- The kind a run is counted as: completed, failed or cancelled; own, whatever its status, for a publisher's own run.
CREATE OR REPLACE FUNCTION store_kind(p_status text, p_own boolean) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN p_own THEN 'own' ELSE p_status END;
