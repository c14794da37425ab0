"""Teams and service accounts, roles that narrow, organisations in the audit log.

Revision: 0041
Revises: 0040
"""

from migrations.replacing import replace_function, restore_function, run_script

revision = "0041"
down_revision = "0040"
branch_labels = None
depends_on = None

UP = """
ALTER TYPE org_role ADD VALUE 'billing';
ALTER TYPE org_role ADD VALUE 'viewer';
ALTER TYPE org_role ADD VALUE 'service';
ALTER TABLE org
    ADD COLUMN time_zone text NOT NULL DEFAULT 'UTC',
    ADD COLUMN deleted_at timestamptz;
ALTER TABLE audit_log ADD COLUMN org_id text;
CREATE INDEX idx_audit_log_org ON audit_log (org_id, id) WHERE org_id IS NOT NULL;
CREATE TABLE org_team (
    id text NOT NULL DEFAULT gen_random_uuid()::text,
    org_id text NOT NULL,
    name text NOT NULL,
    is_default boolean NOT NULL DEFAULT false,
    models text[],
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT org_team_pk PRIMARY KEY (id),
    CONSTRAINT org_team_name_key UNIQUE (org_id, name),
    CONSTRAINT org_team_org_key UNIQUE (id, org_id),
    CONSTRAINT org_team_org_id_fk FOREIGN KEY (org_id) REFERENCES org (id) ON DELETE CASCADE
);
CREATE UNIQUE INDEX idx_org_team_default ON org_team (org_id) WHERE is_default;
INSERT INTO org_team (org_id, name, is_default) SELECT id, 'Everyone', true FROM org;
CREATE TABLE org_team_member (
    team_id text NOT NULL,
    org_id text NOT NULL,
    user_id text NOT NULL,
    joined_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT org_team_member_pk PRIMARY KEY (team_id, user_id),
    CONSTRAINT org_team_member_team_fk FOREIGN KEY (team_id, org_id) REFERENCES org_team (id, org_id) ON DELETE CASCADE,
    CONSTRAINT org_team_member_member_fk
        FOREIGN KEY (org_id, user_id) REFERENCES org_member (org_id, user_id) ON DELETE CASCADE
);
CREATE INDEX idx_org_team_member_user ON org_team_member (org_id, user_id, joined_at);
CREATE TABLE service_account (
    user_id text NOT NULL,
    org_id text NOT NULL,
    name text NOT NULL,
    team_id text,
    created_by text,
    created_at timestamptz NOT NULL DEFAULT now(),
    disabled_at timestamptz,
    CONSTRAINT service_account_pk PRIMARY KEY (user_id),
    CONSTRAINT service_account_user_id_fk FOREIGN KEY (user_id) REFERENCES "user" (id) ON DELETE CASCADE,
    CONSTRAINT service_account_org_id_fk FOREIGN KEY (org_id) REFERENCES org (id) ON DELETE CASCADE,
    CONSTRAINT service_account_team_id_fk FOREIGN KEY (team_id) REFERENCES org_team (id) ON DELETE SET NULL,
    CONSTRAINT service_account_created_by_fk FOREIGN KEY (created_by) REFERENCES "user" (id) ON DELETE SET NULL
);
CREATE INDEX idx_service_account_org ON service_account (org_id);
ALTER TABLE session
    ADD COLUMN team_id text,
    ADD CONSTRAINT session_team_fk FOREIGN KEY (team_id) REFERENCES org_team (id) ON DELETE SET NULL;
"""

# Enum values cannot be dropped: the type is made anew. Roles that narrow become the plain member.
DOWN = """
ALTER TABLE session DROP CONSTRAINT session_team_fk, DROP COLUMN team_id;
DELETE FROM org_member WHERE role = 'service';
DELETE FROM "user" WHERE id IN (SELECT user_id FROM service_account);
DROP TABLE service_account;
DROP TABLE org_team_member;
DROP TABLE org_team;
DROP INDEX idx_audit_log_org;
ALTER TABLE audit_log DROP COLUMN org_id;
ALTER TABLE org DROP COLUMN deleted_at, DROP COLUMN time_zone;
ALTER TYPE org_role RENAME TO org_role_old;
CREATE TYPE org_role AS ENUM ('owner', 'admin', 'member');
ALTER TABLE org_member ALTER COLUMN role TYPE org_role USING
    (CASE WHEN role::text IN ('owner', 'admin') THEN role::text ELSE 'member' END)::org_role;
ALTER TABLE org_invite ALTER COLUMN role TYPE org_role USING
    (CASE WHEN role::text IN ('owner', 'admin') THEN role::text ELSE 'member' END)::org_role;
DROP TYPE org_role_old;
"""


def upgrade() -> None:
    run_script(UP)
    replace_function("orgs/org_default_team", revision)


def downgrade() -> None:
    restore_function("orgs/org_default_team", revision)
    run_script(DOWN)
