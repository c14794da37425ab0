"""Keep the input and the error of calls that failed or were refused, and the parameters of all calls."""

from migrations.replacing import replace_function, restore_function, run_script

revision = "0057"
down_revision = "0056"
branch_labels = None
depends_on = None

# the foreign key locks gateway_call for as long as it takes to look at an empty table
UP = """
CREATE TABLE call_body (
    request_id text NOT NULL,
    finished_at timestamptz NOT NULL,
    request jsonb,
    response jsonb,
    error_message text,
    CONSTRAINT call_body_pk PRIMARY KEY (request_id),
    CONSTRAINT call_body_request_id_fk FOREIGN KEY (request_id) REFERENCES gateway_call (request_id) ON DELETE CASCADE
);
CREATE INDEX idx_call_body_finished ON call_body (finished_at);
ALTER TABLE gateway_call ADD COLUMN parameters jsonb, ADD COLUMN more_refused integer NOT NULL DEFAULT 0;
ALTER TYPE gateway_facts ADD ATTRIBUTE error_message text, ADD ATTRIBUTE parameters jsonb;
"""
DOWN = """
ALTER TYPE gateway_facts DROP ATTRIBUTE error_message, DROP ATTRIBUTE parameters;
ALTER TABLE gateway_call DROP COLUMN parameters, DROP COLUMN more_refused;
DROP TABLE call_body;
"""
FUNCTIONS = (
    "ledger/gateway_fail",
    "ledger/gateway_settle",
    "ledger/gateway_admit",
    "ledger/plan_admit",
    "ledger/gateway_refuse",
)


def upgrade() -> None:
    run_script(UP)
    for name in FUNCTIONS:
        replace_function(name, revision)


def downgrade() -> None:
    for name in reversed(FUNCTIONS):
        restore_function(name, revision)
    run_script(DOWN)
