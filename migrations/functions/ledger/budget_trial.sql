-- What a budget would have refused of the calls since p_since: how many, their credits, whose (ten at most), and the first fifty.
CREATE OR REPLACE FUNCTION budget_trial(
    p_budget budget, p_since timestamptz, OUT calls bigint, OUT refused bigint, OUT credits bigint, OUT by_subject jsonb,
    OUT first_calls jsonb
)
LANGUAGE sql STABLE AS $$
    WITH replayed AS MATERIALIZED (
        SELECT * FROM budget_replay(p_budget, p_since)
    ), stopped AS (
        SELECT * FROM replayed r WHERE r.refused
    )
    SELECT
        (SELECT count(*) FROM replayed), (SELECT count(*) FROM stopped),
        (SELECT coalesce(sum(s.credits), 0)::bigint FROM stopped s),
        (
            SELECT coalesce(jsonb_agg(to_jsonb(b)), '[]') FROM (
                SELECT
                    budget_subject_name(p_budget.account_id, p_budget.level, s.subject) AS name, count(*) AS calls,
                    sum(s.credits) AS credits
                FROM stopped s GROUP BY s.subject ORDER BY 3 DESC, 1 LIMIT 10
            ) b
        ),
        (
            SELECT coalesce(jsonb_agg(to_jsonb(f)), '[]') FROM (
                SELECT
                    s.finished_at, s.model, s.credits, s.run_id,
                    budget_subject_name(p_budget.account_id, 'member', s.user_id) AS member
                FROM stopped s ORDER BY s.finished_at, s.message_id LIMIT 50
            ) f
        )
$$;
