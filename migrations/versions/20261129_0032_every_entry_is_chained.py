"""Hash the entries that there were before the chain.

Account by account and in batches that each commit. A batch holds the lock of its account, so calls of one account wait
for at most one batch, and no entry is added between the last batch and the first entry that the trigger chains to it.
An interrupted run continues where it ended.

Revision: 0032
Revises: 0031
"""

from typing import Any

from alembic import op

from migrations.replacing import replace_function, restore_function

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None

FUNCTIONS = ("ledger/credit_entry_chain", "ledger/credit_entry_append_only")

BATCH = 2000

CHAIN = """
CREATE OR REPLACE FUNCTION pg_temp.chain_entries(p_account text, p_after bigint, p_limit int) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    v_entry credit_entry;
    v_previous bytea := '\\x0000000000000000000000000000000000000000000000000000000000000000';
    v_last bigint;
BEGIN
    PERFORM FROM credit_account a WHERE a.id = p_account FOR UPDATE;
    IF p_after > 0 THEN
        SELECT e.hash INTO STRICT v_previous FROM credit_entry e WHERE e.id = p_after;
    END IF;
    FOR v_entry IN
        SELECT * FROM credit_entry e WHERE e.account_id = p_account AND e.id > p_after ORDER BY e.id LIMIT p_limit
    LOOP
        v_previous := coalesce(v_entry.hash, credit_entry_hash(v_previous, v_entry));
        IF v_entry.hash IS NULL THEN
            UPDATE credit_entry SET hash = v_previous WHERE id = v_entry.id;
        END IF;
        v_last := v_entry.id;
    END LOOP;
    RETURN v_last;
END $$
"""

CHECK = "credit_entry_hash_not_null"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        _chain_all()
        op.execute(f"ALTER TABLE credit_entry DROP CONSTRAINT IF EXISTS {CHECK}")
        op.execute(f"ALTER TABLE credit_entry ADD CONSTRAINT {CHECK} CHECK (hash IS NOT NULL) NOT VALID")
        op.execute(f"ALTER TABLE credit_entry VALIDATE CONSTRAINT {CHECK}")
    # with the valid constraint, neither scans the table
    op.execute("ALTER TABLE credit_entry ALTER COLUMN hash SET NOT NULL")
    op.execute(f"ALTER TABLE credit_entry DROP CONSTRAINT {CHECK}")
    for name in FUNCTIONS:
        replace_function(name, revision)


def downgrade() -> None:
    for name in reversed(FUNCTIONS):
        restore_function(name, revision)
    op.execute("ALTER TABLE credit_entry ALTER COLUMN hash DROP NOT NULL")


def _chain_all() -> None:
    op.execute(CHAIN)
    connection = op.get_bind()
    accounts = connection.exec_driver_sql("SELECT DISTINCT account_id FROM credit_entry WHERE hash IS NULL")
    for (account,) in accounts.all():
        after = 0
        while after is not None:
            after = _chain(connection, account, after)


def _chain(connection: Any, account: str, after: int) -> int | None:
    return connection.exec_driver_sql(  # type: ignore[no-any-return]
        "SELECT pg_temp.chain_entries(%s, %s, %s)", (account, after, BATCH)
    ).scalar_one()
