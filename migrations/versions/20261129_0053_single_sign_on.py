"""Domains and single sign-on of organisations, and how long they keep their audit log.

Revision: 0053
Revises: 0052
"""

from migrations.replacing import replace_function, restore_function, run_script

revision = "0053"
down_revision = "0052"
branch_labels = None
depends_on = None

UP = """
ALTER TABLE org
    ADD COLUMN sso_enforced_at timestamptz,
    ADD COLUMN audit_retention_days integer,
    ADD CONSTRAINT org_audit_retention CHECK (audit_retention_days BETWEEN 90 AND 3650);
CREATE TABLE org_domain (
    id text NOT NULL DEFAULT (gen_random_uuid())::text,
    org_id text NOT NULL,
    domain text NOT NULL,
    token text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    verified_at timestamptz,
    verified_by text,
    CONSTRAINT org_domain_pk PRIMARY KEY (id),
    CONSTRAINT org_domain_once UNIQUE (org_id, domain),
    CONSTRAINT org_domain_org_id_fk FOREIGN KEY (org_id) REFERENCES org (id) ON DELETE CASCADE
);
CREATE UNIQUE INDEX idx_org_domain_proven ON org_domain (domain) WHERE verified_at IS NOT NULL;
CREATE TABLE org_sso (
    org_id text NOT NULL,
    issuer text NOT NULL,
    client_id text NOT NULL,
    client_secret text NOT NULL,
    group_claim text,
    default_role org_role NOT NULL,
    default_team_id text,
    joins boolean NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT org_sso_pk PRIMARY KEY (org_id),
    CONSTRAINT org_sso_org_id_fk FOREIGN KEY (org_id) REFERENCES org (id) ON DELETE CASCADE,
    CONSTRAINT org_sso_default_team_id_fk FOREIGN KEY (default_team_id) REFERENCES org_team (id) ON DELETE SET NULL
);
CREATE TABLE org_sso_group (
    org_id text NOT NULL,
    value text NOT NULL,
    role org_role,
    team_id text,
    CONSTRAINT org_sso_group_pk PRIMARY KEY (org_id, value),
    CONSTRAINT org_sso_group_org_id_fk FOREIGN KEY (org_id) REFERENCES org (id) ON DELETE CASCADE,
    CONSTRAINT org_sso_group_team_id_fk FOREIGN KEY (team_id) REFERENCES org_team (id) ON DELETE CASCADE
);
CREATE TABLE org_sso_session (
    session_token text NOT NULL,
    org_id text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    emergency_until timestamptz,
    CONSTRAINT org_sso_session_pk PRIMARY KEY (session_token, org_id),
    CONSTRAINT org_sso_session_emergency CHECK (emergency_until > created_at),
    CONSTRAINT org_sso_session_session_token_fk
        FOREIGN KEY (session_token) REFERENCES session ("sessionToken") ON DELETE CASCADE,
    CONSTRAINT org_sso_session_org_id_fk FOREIGN KEY (org_id) REFERENCES org (id) ON DELETE CASCADE
);
CREATE INDEX ix_org_sso_session_org_id ON org_sso_session (org_id);
"""

DOWN = """
DROP TABLE org_sso_session;
DROP TABLE org_sso_group;
DROP TABLE org_sso;
DROP TABLE org_domain;
ALTER TABLE org
    DROP CONSTRAINT org_audit_retention,
    DROP COLUMN audit_retention_days,
    DROP COLUMN sso_enforced_at;
"""


def upgrade() -> None:
    run_script(UP)
    replace_function("core/audit_log_append_only", revision)


def downgrade() -> None:
    restore_function("core/audit_log_append_only", revision)
    run_script(DOWN)
