"""${message}.

Revision: ${up_revision}
Revises: ${down_revision | comma,n}
"""

import sqlalchemy as sa
from alembic import op

revision = "${up_revision}"
down_revision = "${down_revision}"
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}

# Rules for migrations. Delete this comment once the migration follows them.
#
# Servers keep running during a migration, and those of the previous release continue until they restart. Over releases:
#   expand    add new objects so that the previous release still works: a table, a nullable column or one with a constant
#             default, a function argument with a default
#   backfill  fill them with a job or in batches of a few thousand rows that each commit; never with one UPDATE of a table
#             that grows
#   contract  in a later release, drop what no release in use reads or writes
#
# Locks. Each migration is a transaction and holds its locks until its end. `lock_timeout` is five seconds (env.py): behind a
# waiting ALTER TABLE every reader waits too. Change few busy tables per migration, and do nothing slow afterwards:
#   index       on a table that grows: CONCURRENTLY, alone in its migration, outside the transaction:
#                   with op.get_context().autocommit_block():
#                       op.execute("DROP INDEX CONCURRENTLY IF EXISTS idx_x")  # an interrupted build is left invalid
#                       op.execute("CREATE INDEX CONCURRENTLY idx_x ON ...")
#   constraint  check, foreign key: ADD CONSTRAINT ... NOT VALID; VALIDATE CONSTRAINT in the next migration. With a valid
#               CHECK (x IS NOT NULL), SET NOT NULL does not scan the table
#   type        change a column's type only if PostgreSQL does not rewrite the table (varchar to text); else add a column
#   enum        a new value can be used from the next migration on
#   trigger     creating or dropping one locks its table; replacing only its function does not
#
# Functions, triggers, views (migrations/replacing.py): unless it is new, first copy migrations/functions/<room>/<name>.sql
# to migrations/replaced/${up_revision}/<room>/<name>.sql. Then write, change or delete the file, and call:
#     upgrade():    replace_function("<room>/<name>", revision)
#     downgrade():  restore_function("<room>/<name>", revision), several in reverse order


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
