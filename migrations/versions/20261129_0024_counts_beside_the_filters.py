"""What there is to choose from in the store is counted when something is published, and figures announce themselves no more.

Revision: 0024
Revises: 0021
"""

from alembic import op

revision = "0024"
down_revision = "0021"
branch_labels = None
depends_on = None

COUNTED = ("agent_run_bill", "store_window")


def upgrade() -> None:
    for table in COUNTED:
        op.execute(f"DROP TRIGGER store_counted ON {table}")
    op.execute(
        """
DROP FUNCTION store_counted();
DROP SEQUENCE store_figures;

CREATE TABLE store_facet (
    kind text NOT NULL,
    name text NOT NULL,
    agents bigint NOT NULL,
    CONSTRAINT store_facet_pk PRIMARY KEY (kind, name)
);

-- Reads every agent. Called under the lock of the stamp's row, so that nobody counts beside.
CREATE FUNCTION store_count_facets() RETURNS void
LANGUAGE sql AS $$
    DELETE FROM store_facet;
    WITH listed AS MATERIALIZED (
        SELECT agent.publisher_id, agent.tags, split_part(agent.model, '/', 1) AS vendor, publisher.verified,
            agent.deprecated_at IS NOT NULL AS deprecated
        FROM agent JOIN publisher ON publisher.id = agent.publisher_id
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
        GROUP BY 2 ORDER BY 3 DESC, 2 LIMIT 8);
$$;

-- Called when a transaction commits, so that publishers wait for each other's commits and not for each other's work.
-- The stamp is the transaction's number: once in a transaction is enough.
CREATE OR REPLACE FUNCTION store_changed() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    v_now text := pg_current_xact_id()::text;
BEGIN
    IF current_setting('stoa.stamped', true) IS DISTINCT FROM v_now THEN
        INSERT INTO store_stamp AS kept (stamp) VALUES (v_now::bigint)
        ON CONFLICT (id) DO UPDATE SET stamp = EXCLUDED.stamp;
        PERFORM store_count_facets();
        PERFORM set_config('stoa.stamped', v_now, true);
    END IF;
    RETURN NULL;
END $$;

SELECT store_count_facets();
"""
    )


def downgrade() -> None:
    op.execute(
        """
CREATE OR REPLACE FUNCTION store_changed() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    v_now text := pg_current_xact_id()::text;
BEGIN
    IF current_setting('stoa.stamped', true) IS DISTINCT FROM v_now THEN
        INSERT INTO store_stamp AS kept (stamp) VALUES (v_now::bigint)
        ON CONFLICT (id) DO UPDATE SET stamp = EXCLUDED.stamp;
        PERFORM set_config('stoa.stamped', v_now, true);
    END IF;
    RETURN NULL;
END $$;

DROP FUNCTION store_count_facets();
DROP TABLE store_facet;

CREATE SEQUENCE store_figures;
CREATE FUNCTION store_counted() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM nextval('store_figures');
    RETURN NULL;
END $$;
"""
    )
    for table in COUNTED:
        op.execute(
            f"CREATE TRIGGER store_counted AFTER INSERT OR UPDATE OR DELETE ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION store_counted()"
        )
