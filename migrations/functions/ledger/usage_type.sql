-- What a call of this door was: the type of usage, as reports and filters name it.
CREATE OR REPLACE FUNCTION usage_type(p_door text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN p_door = 'images' THEN 'image'
        WHEN p_door IN ('speech', 'transcriptions') THEN 'audio'
        WHEN p_door IN ('embeddings', 'rerank') THEN p_door
        WHEN p_door = 'moderations' THEN 'moderation'
        WHEN p_door IN ('web_search', 'docs_search') THEN 'search'
        ELSE 'chat'
    END;
$$;
