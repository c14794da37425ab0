"""Vectors of chunks, where PostgreSQL has the extension `vector`.

Revision: 0112
Revises: 0111
"""

from alembic import op

from migrations.replacing import replace_function, restore_function

revision = "0112"
down_revision = "0111"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the migration."""
    replace_function("index/index_enable_vectors", revision)
    op.execute("SELECT index_enable_vectors()")


def downgrade() -> None:
    """Revert it. The extension stays: other databases' objects may use it."""
    op.execute("DROP TABLE IF EXISTS chunk_vector")
    restore_function("index/index_enable_vectors", revision)
