"""${message}.

Revision: ${up_revision}
Revises: ${down_revision | comma,n}
"""

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}

# The rules of a migration. Delete them here once this one keeps them.
#
# Servers are at work while it runs, and those of the release before go on until they are restarted. So, over releases:
#   expand    add what is new, so that the release before still works: a table, a nullable column or one with a constant
#             default, an argument of a function with a default
#   backfill  fill it, by a job or in batches of some thousand rows that each commit; never by one UPDATE of a table that
#             grows
#   contract  in a later release, drop what nobody reads and writes any more
#
# Locks. Each migration is a transaction and keeps its locks to its end. `lock_timeout` is five seconds (env.py): behind a
# waiting ALTER TABLE every reader waits, too. So it changes few tables that are busy, and does nothing slow after:
#   index       on a table that grows: CONCURRENTLY, alone in its migration, outside the transaction:
#                   with op.get_context().autocommit_block():
#                       op.execute("DROP INDEX CONCURRENTLY IF EXISTS idx_x")  # an interrupted one is left invalid
#                       op.execute("CREATE INDEX CONCURRENTLY idx_x ON ...")
#   constraint  check, foreign key: ADD CONSTRAINT ... NOT VALID; VALIDATE CONSTRAINT in the next migration. A column
#               becomes NOT NULL without being read once such a CHECK (x IS NOT NULL) is valid
#   type        of a column: only where PostgreSQL does not write the table anew (text for varchar); else a new column
#   enum        a value that is added can be used from the next migration on
#   trigger     making or dropping one locks its table; with its function alone replaced, it stays as it is
#
# Functions, triggers, views (migrations/replacing.py): copy migrations/functions/<room>/<name>.sql to
# migrations/replaced/${up_revision}/<room>/<name>.sql, unless it is new, then change or delete it, or write it. Here:
#     upgrade():    replace_function("<room>/<name>", revision)
#     downgrade():  restore_function("<room>/<name>", revision), several in reverse order


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
