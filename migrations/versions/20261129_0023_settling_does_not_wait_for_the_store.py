"""What runs add to the store's figures waits in a queue that a job applies; settling and finishing lock no agent.

Revision: 0023
Revises: 0022
"""

from migrations.replacing import replace_function, restore_function, run_script

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

FUNCTIONS = (
    "store/store_apply",
    "store/store_follow_run",
    "store/store_follow_call",
    "store/store_follow_deletion",
    "ledger/gateway_settle_many",
    "store/store_recount",
    "store/store_own_anew",
    "store/store_follow_bills",
    "store/store_count",
    "store/store_settling",
    "store/store_run_lock",
)

UP = """
CREATE TABLE store_queue (
    id bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    run_id text NOT NULL,
    publisher_id text,
    agent_id text,
    CONSTRAINT store_queue_pk PRIMARY KEY (id)
);

-- What a run that is gone was counted for is taken out by the queue, a moment later.
ALTER TABLE agent_run_bill DROP CONSTRAINT agent_run_bill_run_id_fk;
"""

APPLY_ALL = """
LOCK TABLE store_queue;
DO $$
DECLARE
    v_after bigint := 0;
BEGIN
    WHILE v_after IS NOT NULL LOOP
        v_after := store_apply(v_after, 1000);
    END LOOP;
    IF EXISTS (SELECT FROM store_queue) THEN
        RAISE EXCEPTION 'somebody publishes an agent whose runs wait to be counted; try again';
    END IF;
END $$;
"""

DOWN = """
ALTER TABLE agent_run_bill ADD CONSTRAINT agent_run_bill_run_id_fk FOREIGN KEY (run_id) REFERENCES agent_run (id)
    ON DELETE NO ACTION DEFERRABLE INITIALLY DEFERRED;
DROP TABLE store_queue;
"""


def upgrade() -> None:
    run_script(UP)
    for name in FUNCTIONS:
        replace_function(name, revision)


def downgrade() -> None:
    run_script(APPLY_ALL)
    for name in reversed(FUNCTIONS):
        restore_function(name, revision)
    run_script(DOWN)
