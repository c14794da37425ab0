"""Each ledger entry has the hash of itself and of the account's entry before it, and the ledger's heads are recorded.

The entries of an account are hashed from its first one on, so an account that already has entries waits for migration
0032; until then its new entries have no hash. The release before writes entries as ever: a trigger hashes them.

Revision: 0031
Revises: 0030
"""

from migrations.replacing import replace_function, restore_function, run_script

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None

FUNCTIONS = (
    "ledger/credit_entry_append_only",
    "ledger/credit_entry_hash",
    "ledger/credit_entry_chain",
    "ledger/ledger_head_append_only",
)

UP = """
CREATE TABLE ledger_head (
    day date NOT NULL,
    previous bytea NOT NULL,
    root bytea NOT NULL,
    accounts bigint NOT NULL,
    entries bigint NOT NULL,
    hash bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT ledger_head_pk PRIMARY KEY (day)
);

CREATE TABLE ledger_head_leaf (
    day date NOT NULL,
    leaf bytea NOT NULL,
    account_id text,
    entry_id bigint,
    entries bigint,
    CONSTRAINT ledger_head_leaf_pk PRIMARY KEY (day, leaf),
    CONSTRAINT ledger_head_leaf_day_fk FOREIGN KEY (day) REFERENCES ledger_head (day) ON DELETE RESTRICT
);
CREATE INDEX idx_ledger_head_leaf_account ON ledger_head_leaf (account_id, day);

ALTER TABLE credit_entry ADD COLUMN hash bytea;
"""

DOWN = """
ALTER TABLE credit_entry DROP COLUMN hash;
DROP TABLE ledger_head_leaf, ledger_head;
"""


def upgrade() -> None:
    run_script(UP)
    for name in FUNCTIONS:
        replace_function(name, revision)


def downgrade() -> None:
    for name in reversed(FUNCTIONS):
        restore_function(name, revision)
    run_script(DOWN)
