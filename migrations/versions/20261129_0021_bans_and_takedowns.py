"""Why an account is banned, what operators took out of the store, and pictures fetched from other servers.

Revision: 0021
Revises: 0020
"""

from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

SHOWN = {
    "takedown": "INSERT OR DELETE OR UPDATE",
    "remote_picture": "INSERT OR DELETE OR UPDATE OF picture",
}


def upgrade() -> None:
    op.execute(
        """
ALTER TABLE "user" ADD COLUMN banned_reason text;

CREATE TABLE takedown (
    publisher_id text NOT NULL,
    agent_id text NOT NULL DEFAULT '',
    version text NOT NULL DEFAULT '',
    reason text NOT NULL,
    actor text NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT takedown_pk PRIMARY KEY (publisher_id, agent_id, version),
    CONSTRAINT takedown_publisher_id_publisher_id_fk FOREIGN KEY (publisher_id) REFERENCES publisher (id)
        ON DELETE CASCADE,
    CONSTRAINT takedown_version_has_agent CHECK (version = '' OR agent_id <> '')
);

CREATE TABLE remote_picture (
    address text NOT NULL,
    picture text,
    problem text,
    tries int NOT NULL DEFAULT 1,
    tried_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT remote_picture_pk PRIMARY KEY (address)
);
"""
    )
    for table, events in SHOWN.items():
        op.execute(
            f"CREATE CONSTRAINT TRIGGER store_changed AFTER {events} ON {table}"
            " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION store_changed()"
        )


def downgrade() -> None:
    # The release before knows no takedowns: what was taken down would be in its lists again.
    op.execute(
        """
UPDATE agent SET latest_version = (
    SELECT config.version FROM agent_config AS config
    JOIN agent_version AS version ON (version.publisher_id, version.agent_id, version.version)
        = (config.publisher_id, config.id, config.version)
    WHERE (config.publisher_id, config.id) = (agent.publisher_id, agent.id) AND version.yanked_at IS NULL
    ORDER BY config.major DESC, config.minor DESC, config.patch DESC LIMIT 1
)
WHERE EXISTS (SELECT FROM takedown WHERE takedown.publisher_id = agent.publisher_id
    AND takedown.agent_id IN ('', agent.id));
SET CONSTRAINTS ALL IMMEDIATE;
DROP TABLE remote_picture;
DROP TABLE takedown;
ALTER TABLE "user" DROP COLUMN banned_reason;
"""
    )
