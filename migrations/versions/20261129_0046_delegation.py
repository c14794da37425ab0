"""Calls that an organisation pays for by name or by repository; models and repositories of teams; keys that are switched off.

An admission of the release before charges the key's account.
"""

from migrations.replacing import replace_function, restore_function, run_script

revision = "0046"
down_revision = "0045"
branch_labels = None
depends_on = None

FUNCTIONS = (
    "ledger/model_matches",
    "ledger/plan_admit",
    "ledger/gateway_payer",
    "ledger/gateway_admit",
    "ledger/gateway_admit_many",
    "ledger/gateway_settle",
)

UP = """
ALTER TABLE message ADD COLUMN paid_by text, ADD COLUMN key_id text, ADD COLUMN team_id text;
ALTER TABLE agent_run ADD COLUMN repo_url text, ADD COLUMN paid_by text;
ALTER TABLE credit_hold ADD COLUMN key_id text, ADD COLUMN team_id text;
ALTER TABLE session ADD COLUMN disabled_at timestamp;
ALTER TABLE org_team ADD COLUMN repositories_only boolean NOT NULL DEFAULT false;
CREATE TABLE org_team_repo (
    team_id text NOT NULL,
    repo_id text NOT NULL,
    CONSTRAINT org_team_repo_pk PRIMARY KEY (team_id, repo_id),
    CONSTRAINT org_team_repo_team_id_fk FOREIGN KEY (team_id) REFERENCES org_team (id) ON DELETE CASCADE,
    CONSTRAINT org_team_repo_repo_id_fk FOREIGN KEY (repo_id) REFERENCES org_repo (id) ON DELETE CASCADE
);
CREATE INDEX idx_org_team_repo_repo ON org_team_repo (repo_id);
ALTER TYPE gateway_ask ADD ATTRIBUTE org text, ADD ATTRIBUTE repo_url text;
ALTER TYPE gateway_facts ADD ATTRIBUTE team_id text, ADD ATTRIBUTE paid_by text;
"""
DOWN = """
ALTER TYPE gateway_facts DROP ATTRIBUTE team_id, DROP ATTRIBUTE paid_by;
ALTER TYPE gateway_ask DROP ATTRIBUTE org, DROP ATTRIBUTE repo_url;
DROP TABLE org_team_repo;
ALTER TABLE org_team DROP COLUMN repositories_only;
ALTER TABLE session DROP COLUMN disabled_at;
ALTER TABLE credit_hold DROP COLUMN key_id, DROP COLUMN team_id;
ALTER TABLE agent_run DROP COLUMN repo_url, DROP COLUMN paid_by;
ALTER TABLE message DROP COLUMN paid_by, DROP COLUMN key_id, DROP COLUMN team_id;
"""


def upgrade() -> None:
    run_script(UP)
    for name in FUNCTIONS:
        replace_function(name, revision)


def downgrade() -> None:
    for name in reversed(FUNCTIONS):
        restore_function(name, revision)
    run_script(DOWN)
