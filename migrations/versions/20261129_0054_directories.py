"""Users and groups that directories of organisations provision (SCIM 2.0).

Revision: 0054
Revises: 0053
"""

from migrations.replacing import run_script

revision = "0054"
down_revision = "0053"
branch_labels = None
depends_on = None

UP = """
CREATE TABLE scim_token (
    token_hash text NOT NULL,
    org_id text NOT NULL,
    hint text NOT NULL,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    last_used_at timestamptz,
    CONSTRAINT scim_token_pk PRIMARY KEY (token_hash),
    CONSTRAINT scim_token_org_id_fk FOREIGN KEY (org_id) REFERENCES org (id) ON DELETE CASCADE
);
CREATE INDEX ix_scim_token_org_id ON scim_token (org_id);
CREATE TABLE scim_user (
    id text NOT NULL DEFAULT (gen_random_uuid())::text,
    org_id text NOT NULL,
    user_name text NOT NULL,
    external_id text,
    email text,
    active boolean NOT NULL,
    attributes jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT scim_user_pk PRIMARY KEY (id),
    CONSTRAINT scim_user_org_id_fk FOREIGN KEY (org_id) REFERENCES org (id) ON DELETE CASCADE
);
CREATE UNIQUE INDEX idx_scim_user_name ON scim_user (org_id, lower(user_name));
CREATE INDEX idx_scim_user_external ON scim_user (org_id, external_id);
CREATE INDEX idx_scim_user_email ON scim_user (email);
CREATE INDEX idx_scim_user_list ON scim_user (org_id, created_at, id);
CREATE TABLE scim_group (
    id text NOT NULL DEFAULT (gen_random_uuid())::text,
    org_id text NOT NULL,
    display_name text NOT NULL,
    external_id text,
    team_id text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT scim_group_pk PRIMARY KEY (id),
    CONSTRAINT scim_group_org_id_fk FOREIGN KEY (org_id) REFERENCES org (id) ON DELETE CASCADE,
    CONSTRAINT scim_group_team_id_fk FOREIGN KEY (team_id) REFERENCES org_team (id) ON DELETE SET NULL
);
CREATE INDEX idx_scim_group_list ON scim_group (org_id, created_at, id);
CREATE INDEX idx_scim_group_external ON scim_group (org_id, external_id);
CREATE TABLE scim_group_member (
    group_id text NOT NULL,
    scim_user_id text NOT NULL,
    CONSTRAINT scim_group_member_pk PRIMARY KEY (group_id, scim_user_id),
    CONSTRAINT scim_group_member_group_id_fk FOREIGN KEY (group_id) REFERENCES scim_group (id) ON DELETE CASCADE,
    CONSTRAINT scim_group_member_scim_user_id_fk FOREIGN KEY (scim_user_id) REFERENCES scim_user (id) ON DELETE CASCADE
);
CREATE INDEX ix_scim_group_member_scim_user_id ON scim_group_member (scim_user_id);
"""

DOWN = """
DROP TABLE scim_group_member;
DROP TABLE scim_group;
DROP TABLE scim_user;
DROP TABLE scim_token;
"""


def upgrade() -> None:
    run_script(UP)


def downgrade() -> None:
    run_script(DOWN)
