-- Recompute store_facet by reading every agent. The caller holds the stamp's row lock, which serialises concurrent recounts.
CREATE OR REPLACE FUNCTION store_count_facets() RETURNS void
LANGUAGE sql AS $$
    DELETE FROM store_facet;
    WITH listed AS MATERIALIZED (
        SELECT agent.publisher_id, agent.tags, split_part(agent.model, '/', 1) AS vendor, publisher.verified,
            agent.deprecated_at IS NOT NULL AS deprecated, store_cost_band(coalesce(latest.median, total.median)) AS cost
        FROM agent JOIN publisher ON publisher.id = agent.publisher_id
            LEFT JOIN agent_run_cost AS latest ON latest.publisher_id = agent.publisher_id AND latest.agent_id = agent.id
                AND latest.version = agent.latest_version
            LEFT JOIN agent_run_cost AS total ON total.publisher_id = agent.publisher_id AND total.agent_id = agent.id
                AND total.version = ''
        WHERE agent.latest_version IS NOT NULL
    ), shown AS (SELECT * FROM listed WHERE NOT deprecated)
    INSERT INTO store_facet (kind, name, agents)
    SELECT 'total', 'agents', count(*) FROM shown
    UNION ALL SELECT 'total', 'verified', count(*) FROM shown WHERE verified
    UNION ALL SELECT 'total', 'deprecated', count(*) FROM listed WHERE deprecated
    UNION ALL (SELECT 'tag', tag, count(*) FROM shown, unnest(tags) AS tag WHERE length(tag) BETWEEN 1 AND 100
        GROUP BY tag ORDER BY 3 DESC, 2 LIMIT 8)
    UNION ALL (SELECT 'publisher', publisher_id, count(*) FROM shown GROUP BY 2 ORDER BY 3 DESC, 2 LIMIT 8)
    UNION ALL (SELECT 'vendor', vendor, count(*) FROM shown WHERE length(vendor) BETWEEN 1 AND 100
        GROUP BY 2 ORDER BY 3 DESC, 2 LIMIT 8)
    UNION ALL SELECT 'cost', cost, count(*) FROM shown WHERE cost IS NOT NULL GROUP BY 2;
$$;
