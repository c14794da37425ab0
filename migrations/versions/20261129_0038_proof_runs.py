"""Recorded runs of the ledger proof; indexes find organisations with automatic top-up, and banned users.

Revision: 0038
Revises: 0037
"""

from migrations.replacing import run_script

revision = "0038"
down_revision = "0037"
branch_labels = None
depends_on = None

UP = """
CREATE TABLE proof_run (
    id bigint GENERATED ALWAYS AS IDENTITY,
    started_at timestamptz NOT NULL,
    finished_at timestamptz,
    accounts bigint NOT NULL DEFAULT 0,
    entries bigint NOT NULL DEFAULT 0,
    messages bigint NOT NULL DEFAULT 0,
    lost_calls bigint NOT NULL DEFAULT 0,
    checks int NOT NULL DEFAULT 0,
    differences bigint NOT NULL DEFAULT 0,
    findings jsonb NOT NULL DEFAULT '[]'::jsonb,
    error text,
    CONSTRAINT proof_run_pk PRIMARY KEY (id)
);
CREATE INDEX idx_proof_run_finished ON proof_run (id) WHERE finished_at IS NOT NULL;
CREATE INDEX idx_org_auto_topup ON org (id) WHERE auto_topup_enabled;
CREATE INDEX idx_user_banned ON "user" (created_at) WHERE banned;
"""

DOWN = """
DROP INDEX idx_user_banned;
DROP INDEX idx_org_auto_topup;
DROP TABLE proof_run;
"""


def upgrade() -> None:
    run_script(UP)


def downgrade() -> None:
    run_script(DOWN)
