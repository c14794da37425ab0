"""Provider keys of persons beside those of organisations, in an order of use.

Revision: 0103
Revises: 0102
"""

from migrations.replacing import run_script

revision = "0103"
down_revision = "0102"
branch_labels = None
depends_on = None

UP = """
ALTER TABLE org_provider_key
    ALTER COLUMN org_id DROP NOT NULL,
    ADD COLUMN user_id text CONSTRAINT org_provider_key_user_id_fk REFERENCES "user" ON DELETE CASCADE,
    ADD COLUMN priority int NOT NULL DEFAULT 50,
    ADD COLUMN use_credits boolean NOT NULL DEFAULT false,
    ADD CONSTRAINT org_provider_key_one_owner CHECK (num_nonnulls(org_id, user_id) = 1),
    ADD CONSTRAINT org_provider_key_priority_known CHECK (priority >= 0 AND priority <= 100);
CREATE INDEX idx_org_provider_key_user ON org_provider_key (user_id) WHERE user_id IS NOT NULL;
"""
DOWN = """
DELETE FROM org_provider_key WHERE org_id IS NULL;
ALTER TABLE org_provider_key
    DROP COLUMN user_id,
    DROP COLUMN priority,
    DROP COLUMN use_credits,
    ALTER COLUMN org_id SET NOT NULL;
"""


def upgrade() -> None:
    """Apply the migration."""
    run_script(UP)


def downgrade() -> None:
    """Revert it."""
    run_script(DOWN)
