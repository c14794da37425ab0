-- What people call the subject of a budget: a name of the organisation, team, person or key; agents and runs by their ids.
CREATE OR REPLACE FUNCTION budget_subject_name(p_account text, p_level text, p_subject text) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT coalesce(CASE p_level
        WHEN 'account' THEN (SELECT o.name FROM org o WHERE o.id = p_account)
        WHEN 'team' THEN (SELECT t.name FROM org_team t WHERE t.id = p_subject)
        WHEN 'member' THEN (
            SELECT coalesce(a.name, nullif(u.name, ''), u.email) FROM "user" u LEFT JOIN service_account a ON a.user_id = u.id
            WHERE u.id = p_subject
        )
        WHEN 'key' THEN coalesce(
            (SELECT coalesce(nullif(s.name, ''), s.token_hint) FROM session s WHERE s."sessionToken" = p_subject),
            (SELECT coalesce(nullif(k.name, ''), k.key_id) FROM api_key k WHERE k.key_id = p_subject)
        )
        ELSE p_subject
    END, '')
$$;
