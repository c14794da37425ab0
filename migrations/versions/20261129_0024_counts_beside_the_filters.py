"""What there is to choose from in the store is counted when something is published; figures announce themselves no more.

The sequence `store_figures` stays for the release before, which reads it until it is restarted.

Revision: 0024
Revises: 0023
"""

from alembic import op

from migrations.replacing import replace_function, restore_function

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
CREATE TABLE store_facet (
    kind text NOT NULL,
    name text NOT NULL,
    agents bigint NOT NULL,
    CONSTRAINT store_facet_pk PRIMARY KEY (kind, name)
)
"""
    )
    replace_function("store/store_count_facets", revision)
    replace_function("store/store_changed", revision)
    replace_function("store/store_counted", revision)
    op.execute("SELECT store_count_facets()")


def downgrade() -> None:
    restore_function("store/store_counted", revision)
    restore_function("store/store_changed", revision)
    restore_function("store/store_count_facets", revision)
    op.execute("DROP TABLE store_facet")
