-- Why a key does not allow a call, or null: the address, the scope, the model, the agent of the run, or fields of the request that
-- would be dropped, in that order. Model, agent and fields are unknown ('', null) before the body is read.
CREATE OR REPLACE FUNCTION api_key_refusal(
    p_key api_key, p_scope text, p_model text, p_route_model text, p_agent text, p_ip text, p_drops text[]
) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    v_address inet;
BEGIN
    IF p_key.allowed_ips IS NOT NULL THEN
        BEGIN
            v_address := split_part(p_ip, '%', 1);
        EXCEPTION WHEN invalid_text_representation THEN
            v_address := NULL;
        END;
        IF NOT coalesce(v_address <<= ANY (p_key.allowed_ips::inet[]), false) THEN
            RETURN 'ip_not_allowed';
        END IF;
    END IF;
    RETURN CASE
        WHEN p_scope IS NULL OR NOT p_scope = ANY (p_key.permissions) THEN 'insufficient_permissions'
        WHEN p_model = '' THEN NULL
        WHEN p_key.allowed_models IS NOT NULL AND NOT model_matches(p_key.allowed_models, p_model, p_route_model)
            THEN 'model_not_allowed'
        WHEN p_key.allowed_agents IS NOT NULL
            AND NOT coalesce(model_matches(p_key.allowed_agents, p_agent, split_part(p_agent, '@', 1)), false)
            THEN 'agent_not_allowed'
        WHEN p_key.is_strict AND cardinality(p_drops) > 0 THEN 'fields_dropped'
    END;
END $$;
