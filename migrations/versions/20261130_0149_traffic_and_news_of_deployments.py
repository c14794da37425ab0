"""The traffic of sites, and the events of deployments that were begun from conversations.

Revision: 0149
Revises: 0148
"""

from migrations.replacing import run_script

revision = "0149"
down_revision = "0148"
branch_labels = None
depends_on = None

UP = """
CREATE TABLE site_traffic (
    workspace_id text NOT NULL,
    day date NOT NULL,
    project_id text NOT NULL CONSTRAINT site_traffic_project_id_fk REFERENCES project (id) ON DELETE CASCADE,
    requests bigint NOT NULL,
    bytes bigint NOT NULL,
    refused bigint NOT NULL,
    CONSTRAINT site_traffic_pk PRIMARY KEY (workspace_id, day),
    CONSTRAINT site_traffic_not_negative CHECK (requests >= 0 AND bytes >= 0 AND refused >= 0),
    CONSTRAINT site_traffic_workspace_fk FOREIGN KEY (project_id, workspace_id)
        REFERENCES workspace (project_id, id) ON DELETE CASCADE
);
CREATE INDEX idx_site_traffic_project ON site_traffic (project_id);
CREATE INDEX idx_site_traffic_day ON site_traffic (day);

CREATE TABLE conversation_deploy_event (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT conversation_deploy_event_pk PRIMARY KEY,
    conversation_id text NOT NULL CONSTRAINT conversation_deploy_event_conversation_id_fk
        REFERENCES conversation (id) ON DELETE CASCADE,
    deployment_id text NOT NULL CONSTRAINT conversation_deploy_event_deployment_id_fk
        REFERENCES deployment (id) ON DELETE CASCADE,
    name text NOT NULL,
    data jsonb NOT NULL,
    CONSTRAINT conversation_deploy_event_name_known
        CHECK (name = ANY (ARRAY['deployment_started', 'deployment_log', 'deployment_complete']))
);
CREATE INDEX idx_conversation_deploy_event_conversation ON conversation_deploy_event (conversation_id, id);
CREATE INDEX idx_conversation_deploy_event_deployment ON conversation_deploy_event (deployment_id, id);
"""

DOWN = """
DROP TABLE conversation_deploy_event;
DROP TABLE site_traffic;
"""


def upgrade() -> None:
    """Apply the migration."""
    run_script(UP)


def downgrade() -> None:
    """Revert it."""
    run_script(DOWN)
