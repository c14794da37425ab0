-- What each finished run of a published agent contributes to statistics. Calls paid with the caller's own provider key count
-- as 0 credits.
CREATE OR REPLACE VIEW finished_agent_run AS
SELECT
    r.id AS run_id, r.publisher_id, r.agent_name AS agent_id, r.agent_version AS version, r.user_id,
    r.status::text AS status,
    (
        SELECT coalesce(sum(c.credits), 0)::bigint
        FROM gateway_call c LEFT JOIN message m ON m.id = c.message_id
        WHERE c.run_id = r.id AND c.state = 'settled' AND m.byok IS NOT TRUE
    ) AS credits,
    greatest(coalesce(r.duration_ms, 0), 0)::bigint AS duration_ms,
    r.created_at,
    store_is_own(r.publisher_id, r.user_id) AS own
FROM agent_run r
WHERE r.status <> 'running' AND r.publisher_id IS NOT NULL AND r.agent_id <> 'test-agent' AND (
    EXISTS (SELECT FROM gateway_call c WHERE c.run_id = r.id AND c.state = 'settled')
    OR EXISTS (
        SELECT FROM agent_run below
        WHERE below.ancestor_run_ids @> ARRAY[r.id] AND below.user_id = r.user_id
            AND EXISTS (SELECT FROM gateway_call c WHERE c.run_id = below.id AND c.state = 'settled')
    )
);
