"""Kept responses of the Responses API, and what they take of each account.

Revision: 0097
Revises: 0095
"""

from migrations.replacing import replace_function, restore_function, run_script

revision = "0097"
down_revision = "0095"
branch_labels = None
depends_on = None

UP = """
CREATE TABLE stored_response (
    id text NOT NULL,
    account_id text NOT NULL,
    user_id text NOT NULL,
    chain_id text NOT NULL,
    previous_id text,
    size integer NOT NULL,
    item_ids text[] NOT NULL,
    input json NOT NULL,
    response json NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT stored_response_pk PRIMARY KEY (id)
);
CREATE INDEX idx_stored_response_chain ON stored_response (account_id, chain_id, created_at);
CREATE INDEX idx_stored_response_created ON stored_response (created_at);
CREATE INDEX idx_stored_response_items ON stored_response USING gin (item_ids);
CREATE TABLE response_storage (
    account_id text NOT NULL,
    bytes bigint NOT NULL,
    CONSTRAINT response_storage_pk PRIMARY KEY (account_id)
);
"""


def upgrade() -> None:
    run_script(UP)
    replace_function("gateway/stored_response_count", revision)


def downgrade() -> None:
    restore_function("gateway/stored_response_count", revision)
    run_script("DROP TABLE response_storage; DROP TABLE stored_response")
