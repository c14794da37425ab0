-- The organisation that `bench/fill.py` fills: account 1, which account 0 owns.

-- Members, teams, keys, repositories, invites, budgets and the audit log. A member calls with a key of the own team, with one of
-- another team, or from a repository with a personal key.
CREATE FUNCTION fill_org(p_members int) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_org constant text := 'fill-org';
    v_owner text := (SELECT id FROM fill_account WHERE number = 0);
    v_start timestamptz := now() - interval '400 days';
BEGIN
    CREATE TEMP TABLE fill_member ON COMMIT DROP AS
    SELECT k.account AS number, k.user_id, k.key_id,
        CASE WHEN k.account % 9 = 0 THEN 'fill-everyone' ELSE 'fill-team-' || k.account % 9 END AS team_id
    FROM fill_caller k WHERE k.number = 0 AND k.account < p_members;
    INSERT INTO org (id, name, slug, owner_id, auto_topup_threshold, auto_topup_amount, created_at)
    VALUES (v_org, 'Filled', v_org, v_owner, 5000, 20000, v_start);
    INSERT INTO credit_account (id, org_id, created_at) VALUES (v_org, v_org, v_start);
    INSERT INTO org_member (org_id, user_id, role, joined_at)
    SELECT v_org, user_id, (CASE WHEN number = 0 THEN 'owner' WHEN number < 4 THEN 'admin' ELSE 'member' END)::org_role,
        v_start + number * interval '1 hour'
    FROM fill_member;
    INSERT INTO org_team (id, org_id, name, is_default, created_at)
    SELECT CASE n WHEN 0 THEN 'fill-everyone' ELSE 'fill-team-' || n END, v_org,
        CASE n WHEN 0 THEN 'Everyone' ELSE 'Team ' || n END, n = 0, v_start
    FROM generate_series(0, 8) n;
    INSERT INTO org_team_member (team_id, org_id, user_id)
    SELECT team_id, v_org, user_id FROM fill_member WHERE number % 9 > 0;
    INSERT INTO org_repo (id, org_id, repo_url, repo_name, repo_owner, approved_by, approved_at)
    SELECT 'fill-repo-' || n, v_org, 'https://github.com/fill/repo-' || n, 'repo-' || n, 'fill', v_owner, v_start
    FROM generate_series(0, 29) n;
    UPDATE fill_account SET id = v_org, org_id = v_org, buyer_id = v_owner WHERE number = 1;
    DELETE FROM fill_caller WHERE account = 1;
    INSERT INTO fill_caller (account, number, user_id, key_id, team_id, repo_url, paid_by)
    SELECT 1, number * 3, user_id, fill_key('own team', number), team_id, NULL, 'key' FROM fill_member
    UNION ALL
    SELECT 1, number * 3 + 1, user_id, fill_key('team', number), 'fill-team-' || 1 + number % 8, NULL, 'key' FROM fill_member
    UNION ALL
    SELECT 1, number * 3 + 2, user_id, key_id, team_id, 'https://github.com/fill/repo-' || number % 30, 'repository' FROM fill_member;
    INSERT INTO session ("sessionToken", "userId", org_id, team_id, expires, created_at, type, token_hint, name)
    SELECT key_id, user_id, v_org, CASE WHEN number % 3 = 1 THEN team_id END, now() + interval '300 days',
        v_start + number * interval '30 minutes', 'pat', lpad(number::text, 4, '0'), 'Key ' || number
    FROM fill_caller WHERE account = 1 AND paid_by = 'key';

    INSERT INTO org_invite (id, org_id, email, role, token, invited_by, created_at, expires_at, accepted_at, accepted_by, withdrawn_at)
    SELECT 'fill-invite-' || n, v_org, 'invited-' || n || '@example.org', 'member', md5('invite' || n), v_owner,
        now() - (n * interval '3 hours'), now() - (n * interval '3 hours') + interval '7 days',
        CASE WHEN n % 3 = 1 THEN now() - n * interval '2 hours' END, CASE WHEN n % 3 = 1 THEN v_owner END,
        CASE WHEN n % 9 = 2 THEN now() - n * interval '2 hours' END
    FROM generate_series(1, 150) n;
    INSERT INTO budget (id, account_id, level, subject, period, limit_credits, created_by, created_at, counted_since)
    SELECT 'fill-budget-' || row_number() OVER (), v_org, b.level, b.subject, b.period, b.credits, v_owner, v_start, now()
    FROM (
        VALUES ('account', NULL, 'month', 1000000000), ('account', NULL, 'day', 100000000), ('member', NULL, 'month', 50000000),
            ('member', NULL, 'day', 5000000), ('key', NULL, 'week', 20000000), ('team', NULL, 'month', 200000000),
            ('agent', NULL, 'month', 500000000)
        UNION ALL
        SELECT 'team', 'fill-team-' || n, 'week', 100000000 FROM generate_series(1, 8) n
        UNION ALL
        SELECT 'member', user_id, 'week', 10000000 FROM fill_member WHERE number % 10 = 3
    ) b (level, subject, period, credits);
    INSERT INTO audit_log (at, actor_id, actor, action, subject, after, ip, request_id, org_id)
    SELECT v_start + n * interval '115 minutes', v_owner, 'Account 0',
        (ARRAY['member.added', 'key.created', 'key.revoked', 'team.member_added', 'budget.changed'])[1 + n % 5],
        'account-' || n % p_members, jsonb_build_object('number', n), '127.0.0.1', md5('audit' || n), v_org
    FROM generate_series(1, 5000) n;
    DROP TABLE fill_member;
END $$;


-- What was spent of the budgets, counted as when a budget is created. Needs the indexes.
CREATE FUNCTION fill_budgets() RETURNS void
LANGUAGE sql AS $$ SELECT budget_fill(id, now()) FROM budget; $$;
