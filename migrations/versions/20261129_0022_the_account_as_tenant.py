"""Keys and runs say which account pays, a person's own or an organisation's, and all of an account is found by its id.

Revision: 0022
Revises: 0021
"""

from migrations.replacing import replace_function, restore_function, run_script

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

FUNCTIONS = ("ledger/gateway_admit", "ledger/gateway_admit_many", "ledger/credit_keep_people")

UP = """
-- A key of an organisation ends with its owner's membership.
ALTER TABLE session ADD COLUMN org_id text;
ALTER TABLE session ADD CONSTRAINT session_member_fk FOREIGN KEY (org_id, "userId")
    REFERENCES org_member (org_id, user_id) ON DELETE CASCADE;

ALTER TABLE agent_run ADD COLUMN org_id text CONSTRAINT agent_run_org_id_fk REFERENCES org (id) ON DELETE CASCADE;
CREATE INDEX idx_agent_run_org ON agent_run (org_id) WHERE org_id IS NOT NULL;
CREATE INDEX idx_agent_run_account ON agent_run (coalesce(org_id, user_id), created_at);
CREATE INDEX idx_agent_run_account_state ON agent_run (coalesce(org_id, user_id), status, created_at);
CREATE INDEX idx_agent_run_account_agent ON agent_run (coalesce(org_id, user_id), agent_id, created_at);
DROP INDEX idx_agent_run_user_state;
DROP INDEX idx_agent_run_user_agent;

CREATE INDEX idx_message_account_finished ON message (coalesce(org_id, user_id), finished_at);
DROP INDEX idx_message_user_finished;

-- A call goes with its account, as holds and rollups do.
CREATE INDEX idx_gateway_call_account ON gateway_call (account_id, started_at);
CREATE INDEX idx_gateway_call_member ON gateway_call (user_id) WHERE user_id <> account_id;
DROP INDEX idx_gateway_call_user;
ALTER TABLE gateway_call DROP CONSTRAINT gateway_call_user_id_fk;
ALTER TABLE gateway_call ADD CONSTRAINT gateway_call_account_id_fk FOREIGN KEY (account_id)
    REFERENCES credit_account (id) ON DELETE CASCADE;
"""

DOWN = """
ALTER TABLE gateway_call DROP CONSTRAINT gateway_call_account_id_fk;
ALTER TABLE gateway_call ADD CONSTRAINT gateway_call_user_id_fk FOREIGN KEY (user_id)
    REFERENCES "user" (id) ON DELETE CASCADE;
CREATE INDEX idx_gateway_call_user ON gateway_call (user_id, started_at);
DROP INDEX idx_gateway_call_member;
DROP INDEX idx_gateway_call_account;

CREATE INDEX idx_message_user_finished ON message (user_id, finished_at);
DROP INDEX idx_message_account_finished;

CREATE INDEX idx_agent_run_user_state ON agent_run (user_id, status, created_at);
CREATE INDEX idx_agent_run_user_agent ON agent_run (user_id, agent_id, created_at);
DROP INDEX idx_agent_run_account_agent;
DROP INDEX idx_agent_run_account_state;
DROP INDEX idx_agent_run_account;
DROP INDEX idx_agent_run_org;
ALTER TABLE agent_run DROP COLUMN org_id;

-- the release before would charge them to their owners
DELETE FROM session WHERE org_id IS NOT NULL;
ALTER TABLE session DROP CONSTRAINT session_member_fk;
ALTER TABLE session DROP COLUMN org_id;
"""


def upgrade() -> None:
    run_script(UP)
    for name in FUNCTIONS:
        replace_function(name, revision)


def downgrade() -> None:
    for name in reversed(FUNCTIONS):
        restore_function(name, revision)
    run_script(DOWN)
