-- The advisory lock key of an agent.
CREATE OR REPLACE FUNCTION store_agent_key(p_publisher text, p_agent text) RETURNS bigint
LANGUAGE sql IMMUTABLE
RETURN hashtextextended('store agent ' || p_publisher || '/' || p_agent, 0);
