"""Stopping all calls of an account."""

from migrations.replacing import replace_function, restore_function, run_script

revision = "0055"
down_revision = "0054"
branch_labels = None
depends_on = None

UP = """
CREATE TABLE account_stop (
    id bigint GENERATED ALWAYS AS IDENTITY,
    account_id text NOT NULL,
    stopped_by text,
    stopped_by_name text NOT NULL,
    stopped_at timestamptz NOT NULL,
    resumed_by text,
    resumed_by_name text,
    resumed_at timestamptz,
    calls jsonb NOT NULL DEFAULT '[]'::jsonb,
    runs jsonb NOT NULL DEFAULT '[]'::jsonb,
    CONSTRAINT account_stop_pk PRIMARY KEY (id),
    CONSTRAINT account_stop_account_id_fk FOREIGN KEY (account_id) REFERENCES credit_account (id) ON DELETE CASCADE,
    CONSTRAINT account_stop_stopped_by_fk FOREIGN KEY (stopped_by) REFERENCES "user" (id) ON DELETE SET NULL,
    CONSTRAINT account_stop_resumed_by_fk FOREIGN KEY (resumed_by) REFERENCES "user" (id) ON DELETE SET NULL
);
CREATE INDEX idx_account_stop_account ON account_stop (account_id, id);
ALTER TABLE credit_account ADD COLUMN stop_id bigint;
CREATE INDEX idx_credit_account_stopped ON credit_account (id) WHERE stop_id IS NOT NULL;
"""
DOWN = """
DROP INDEX idx_credit_account_stopped;
ALTER TABLE credit_account DROP COLUMN stop_id;
DROP TABLE account_stop;
"""


def upgrade() -> None:
    run_script(UP)
    replace_function("ledger/gateway_admit", revision)


def downgrade() -> None:
    restore_function("ledger/gateway_admit", revision)
    run_script(DOWN)
