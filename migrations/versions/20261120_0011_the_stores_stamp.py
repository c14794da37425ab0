"""When the store last changed: one row that publishing moves on, and a count that runs move on.

Revision: 0011
Revises: 0010
"""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

# What each table shows in a list. Figures are not among it: they are counted by `store_figures`.
SHOWN = {
    "publisher": "name, bio, email, verified, avatar_url",
    "agent": "name, description, tags, model, latest_version, versions, readme, deprecated_at, deprecated_reason,"
    " successor, published_at",
    "agent_version": "yanked_at, yanked_reason",
    "agent_config": "data, updated_at",
}
COUNTED = ("agent_run_bill", "store_window")


def upgrade() -> None:
    op.execute(
        """
CREATE TABLE store_stamp (
    id boolean NOT NULL DEFAULT true,
    stamp bigint NOT NULL,
    CONSTRAINT store_stamp_pk PRIMARY KEY (id),
    CONSTRAINT store_stamp_single CHECK (id)
);
INSERT INTO store_stamp (stamp) VALUES (0);

CREATE SEQUENCE store_figures;

-- Called when a transaction commits, so that publishers wait for each other's commits and not for each other's work.
-- The stamp is the transaction's number: once in a transaction is enough.
CREATE FUNCTION store_changed() RETURNS trigger
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

CREATE FUNCTION store_counted() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM nextval('store_figures');
    RETURN NULL;
END $$;

CREATE INDEX idx_agent_id ON agent (id);
CREATE INDEX idx_agent_vendor ON agent (split_part(model, '/', 1));
"""
    )
    for table, columns in SHOWN.items():
        op.execute(
            f"CREATE CONSTRAINT TRIGGER store_changed AFTER INSERT OR DELETE OR UPDATE OF {columns} ON {table}"
            " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION store_changed()"
        )
    for table in COUNTED:
        op.execute(
            f"CREATE TRIGGER store_counted AFTER INSERT OR UPDATE OR DELETE ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION store_counted()"
        )


def downgrade() -> None:
    for table in COUNTED:
        op.execute(f"DROP TRIGGER store_counted ON {table}")
    for table in SHOWN:
        op.execute(f"DROP TRIGGER store_changed ON {table}")
    op.execute(
        """
DROP INDEX idx_agent_vendor;
DROP INDEX idx_agent_id;
DROP FUNCTION store_counted();
DROP FUNCTION store_changed();
DROP SEQUENCE store_figures;
DROP TABLE store_stamp;
"""
    )
