"""What an account has written in a minute or a day, what a run has in steps, what an agent's versions have in bytes.

Steps that were recorded before count for no run; definitions do.

Revision: 0019
Revises: 0018
"""

from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
CREATE TABLE write_quota (
    user_id text NOT NULL REFERENCES "user" (id) ON DELETE CASCADE,
    name text NOT NULL,
    used bigint NOT NULL,
    until timestamptz NOT NULL,
    CONSTRAINT write_quota_pk PRIMARY KEY (user_id, name)
) WITH (fillfactor = 50);

CREATE TABLE agent_run_volume (
    run_id text NOT NULL REFERENCES agent_run (id) ON DELETE CASCADE,
    steps bigint NOT NULL,
    bytes bigint NOT NULL,
    CONSTRAINT agent_run_volume_pk PRIMARY KEY (run_id)
) WITH (fillfactor = 80);

CREATE INDEX idx_publisher_created_by ON publisher (created_by);

ALTER TABLE agent ADD COLUMN bytes bigint NOT NULL DEFAULT 0;
UPDATE agent a SET bytes = c.bytes
FROM (
    SELECT publisher_id, id, sum(octet_length(data::text)) AS bytes FROM agent_config GROUP BY publisher_id, id
) c
WHERE (c.publisher_id, c.id) = (a.publisher_id, a.id);
"""
    )


def downgrade() -> None:
    op.execute("ALTER TABLE agent DROP COLUMN bytes")
    op.execute("DROP INDEX idx_publisher_created_by")
    op.execute("DROP TABLE agent_run_volume, write_quota")
