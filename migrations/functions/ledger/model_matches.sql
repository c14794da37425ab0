-- Whether a pattern matches one of the two names of a model, in any case: `*` stands for any text, `?` for one character.
CREATE OR REPLACE FUNCTION model_matches(p_patterns text[], p_model text, p_route_model text) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
    SELECT EXISTS (
        SELECT FROM unnest(p_patterns) m (pattern), LATERAL (
            SELECT lower(translate(regexp_replace(m.pattern, '([\\%_])', '\\\1', 'g'), '*?', '%_')) AS text
        ) l
        WHERE lower(p_model) LIKE l.text OR lower(p_route_model) LIKE l.text
    )
$$;
