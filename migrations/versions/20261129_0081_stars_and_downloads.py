"""Stars of agents, and downloads of versions.

Revision: 0081
Revises: 0080
"""

from migrations.replacing import replace_function, restore_function, run_script

revision = "0081"
down_revision = "0080"
branch_labels = None
depends_on = None

UP = """
ALTER TABLE agent ADD COLUMN stars bigint NOT NULL DEFAULT 0;
ALTER TABLE agent_version ADD COLUMN downloads bigint NOT NULL DEFAULT 0;
CREATE INDEX idx_agent_by_stars ON agent (stars DESC, publisher_id, id);
CREATE TABLE agent_star (
    publisher_id text NOT NULL,
    agent_id text NOT NULL,
    user_id text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT agent_star_pk PRIMARY KEY (publisher_id, agent_id, user_id),
    CONSTRAINT agent_star_agent_fk FOREIGN KEY (publisher_id, agent_id) REFERENCES agent (publisher_id, id) ON DELETE CASCADE,
    CONSTRAINT agent_star_user_id_fk FOREIGN KEY (user_id) REFERENCES "user" (id) ON DELETE CASCADE
);
CREATE INDEX idx_agent_star_user ON agent_star (user_id);
CREATE TABLE agent_download (
    publisher_id text NOT NULL,
    agent_id text NOT NULL,
    version text NOT NULL,
    day date NOT NULL,
    visitor bytea NOT NULL,
    CONSTRAINT agent_download_pk PRIMARY KEY (publisher_id, agent_id, version, day, visitor)
);
"""
DOWN = """
DROP TABLE agent_download;
DROP TABLE agent_star;
DROP INDEX idx_agent_by_stars;
ALTER TABLE agent_version DROP COLUMN downloads;
ALTER TABLE agent DROP COLUMN stars;
"""


def upgrade() -> None:
    run_script(UP)
    replace_function("store/store_star", revision)


def downgrade() -> None:
    restore_function("store/store_star", revision)
    run_script(DOWN)
