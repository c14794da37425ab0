"""Joining an organisation by a proven domain, and receipts of memberships that ended.

Revision: 0045
Revises: 0044
"""

from migrations.replacing import run_script

revision = "0045"
down_revision = "0044"
branch_labels = None
depends_on = None

UP = """
CREATE TABLE org_domain_joining (
    org_id text NOT NULL,
    domain text NOT NULL,
    mode text NOT NULL,
    role org_role NOT NULL,
    CONSTRAINT org_domain_joining_pk PRIMARY KEY (org_id, domain),
    CONSTRAINT org_domain_joining_org_id_fk FOREIGN KEY (org_id) REFERENCES org (id) ON DELETE CASCADE,
    CONSTRAINT org_domain_joining_mode_known CHECK (mode IN ('ask', 'join')),
    CONSTRAINT org_domain_joining_role_narrow CHECK (role IN ('member', 'viewer'))
);
CREATE TABLE org_join_request (
    id text NOT NULL DEFAULT (gen_random_uuid())::text,
    org_id text NOT NULL,
    user_id text NOT NULL,
    role org_role NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    decided_at timestamptz,
    accepted boolean,
    CONSTRAINT org_join_request_pk PRIMARY KEY (id),
    CONSTRAINT org_join_request_org_id_fk FOREIGN KEY (org_id) REFERENCES org (id) ON DELETE CASCADE,
    CONSTRAINT org_join_request_user_id_fk FOREIGN KEY (user_id) REFERENCES "user" (id) ON DELETE CASCADE,
    CONSTRAINT org_join_request_decided CHECK ((decided_at IS NULL) = (accepted IS NULL))
);
CREATE UNIQUE INDEX idx_org_join_request_open ON org_join_request (org_id, user_id) WHERE decided_at IS NULL;
CREATE INDEX idx_org_join_request_user ON org_join_request (user_id, org_id);
CREATE TABLE org_removal (
    id text NOT NULL DEFAULT (gen_random_uuid())::text,
    org_id text NOT NULL,
    user_id text NOT NULL,
    email text NOT NULL,
    role text NOT NULL,
    removed_by text NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    receipt jsonb NOT NULL,
    CONSTRAINT org_removal_pk PRIMARY KEY (id),
    CONSTRAINT org_removal_org_id_fk FOREIGN KEY (org_id) REFERENCES org (id) ON DELETE CASCADE
);
CREATE INDEX idx_org_removal_org ON org_removal (org_id, at);
"""

DOWN = """
DROP TABLE org_removal;
DROP TABLE org_join_request;
DROP TABLE org_domain_joining;
"""


def upgrade() -> None:
    run_script(UP)


def downgrade() -> None:
    run_script(DOWN)
