-- Which account pays for a person's call or run, and for which team. org_id NULL: the person's own. In this order: the
-- organisation of the key, the one that is named by id or slug (p_org), the one of a run that one paid for before (p_run_org),
-- the one with an active repository of this owner and name, which the caller belongs to in a role that spends (p_repo, in normal
-- form, '' if unreadable; on any host, as in contract 3.10). paid_by says which of them; or, as `fallback:<reason>`, why the
-- person pays although a repository was given: contract 3.10 charges the user on any failure or no match. Only a repository falls
-- back. outcome says why the call is refused, and refusal has the names for the message.
CREATE OR REPLACE FUNCTION gateway_payer(
    p_user text, p_key_org text, p_key_team text, p_org text, p_repo text, p_run_org text, p_run_paid_by text, p_model text,
    p_route_model text,
    OUT outcome text, OUT org_id text, OUT team_id text, OUT paid_by text, OUT refusal jsonb
)
LANGUAGE plpgsql STABLE SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    v_named text := coalesce(p_org, CASE WHEN p_run_paid_by = 'named' THEN p_run_org END);
    v_spends constant org_role[] := '{owner,admin,member,service}';
    v_urls text[];
    v_org record;
    v_team record;
BEGIN
    v_urls := ARRAY(
        SELECT regexp_replace(p_repo, '^https://[^/]+', 'https://' || h.host)
        FROM unnest('{github.com,gitlab.com,bitbucket.org}'::text[]) h (host)
        WHERE p_repo <> ''
    );
    IF p_key_org IS NULL AND v_named IS NULL THEN
        SELECT o.id, o.name, m.role INTO v_org
        FROM org_member m
        JOIN org o ON o.id = m.org_id AND o.deleted_at IS NULL
        JOIN org_repo r ON r.org_id = m.org_id AND r.repo_url = ANY (v_urls) AND r.is_active
        WHERE m.user_id = p_user AND (p_run_org IS NULL OR m.org_id = p_run_org)
        ORDER BY m.role = ANY (v_spends) DESC, r.approved_at, r.id
        LIMIT 1;
        paid_by := CASE
            WHEN NOT FOUND THEN 'fallback:no_match'
            WHEN v_org.role <> ALL (v_spends) THEN 'fallback:role'
            ELSE 'repository'
        END;
        IF paid_by <> 'repository' THEN
            RETURN;
        END IF;
    ELSE
        paid_by := CASE WHEN p_key_org IS NULL THEN 'named' ELSE 'key' END;
        SELECT o.id, o.name, o.slug, m.role INTO v_org
        FROM org o JOIN org_member m ON m.org_id = o.id AND m.user_id = p_user
        WHERE o.deleted_at IS NULL AND (o.id = coalesce(p_key_org, v_named) OR p_key_org IS NULL AND o.slug = v_named)
        ORDER BY o.id = v_named DESC
        LIMIT 1;
        IF NOT FOUND THEN
            outcome := 'org_not_found';
            RETURN;
        END IF;
        refusal := jsonb_build_object('org', v_org.name, 'role', v_org.role);
        IF p_key_org IS NOT NULL AND p_org NOT IN (v_org.id, v_org.slug) THEN
            outcome := 'org_conflict';
        ELSIF v_org.role <> ALL (v_spends) THEN
            outcome := 'org_role';
        END IF;
        IF outcome IS NOT NULL THEN
            RETURN;
        END IF;
    END IF;
    team_id := coalesce(
        CASE WHEN p_key_org IS NOT NULL THEN p_key_team END,
        (SELECT a.team_id FROM service_account a WHERE a.user_id = p_user),
        (
            SELECT t.team_id FROM org_team_member t WHERE t.org_id = v_org.id AND t.user_id = p_user
            ORDER BY t.joined_at, t.team_id LIMIT 1
        )
    );
    SELECT t.id, t.name, t.models, t.repositories_only INTO v_team
    FROM org_team t
    WHERE t.org_id = v_org.id AND (t.id = gateway_payer.team_id OR gateway_payer.team_id IS NULL AND t.is_default);
    team_id := v_team.id;
    refusal := jsonb_build_object('org', v_org.name, 'team', v_team.name);
    IF v_team.repositories_only AND NOT EXISTS (
        SELECT FROM org_team_repo a JOIN org_repo r ON r.id = a.repo_id
        WHERE a.team_id = v_team.id AND r.is_active AND r.repo_url = ANY (v_urls)
    ) THEN
        IF paid_by = 'repository' THEN
            paid_by := 'fallback:team';
            team_id := NULL;
        ELSE
            outcome := 'team_repository';
        END IF;
        RETURN;
    END IF;
    IF v_team.models IS NOT NULL AND p_model <> '' AND NOT model_matches(v_team.models, p_model, p_route_model) THEN
        outcome := 'team_model';
        RETURN;
    END IF;
    org_id := v_org.id;
END $$;
