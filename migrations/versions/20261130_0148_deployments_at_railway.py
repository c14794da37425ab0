"""Deployments at Railway.

Revision: 0148
Revises: 0159
"""

from migrations.replacing import run_script

revision = "0148"
down_revision = "0159"
branch_labels = None
depends_on = None

UP = """
ALTER TABLE deployment_setting DROP CONSTRAINT deployment_setting_adapter_known;
ALTER TABLE deployment_setting ADD CONSTRAINT deployment_setting_adapter_known
    CHECK (adapter = ANY (ARRAY['static', 'process', 'cloudflare', 'webhook', 'railway']));
ALTER TABLE deployment DROP CONSTRAINT deployment_adapter_known;
ALTER TABLE deployment ADD CONSTRAINT deployment_adapter_known
    CHECK (adapter = ANY (ARRAY['static', 'process', 'cloudflare', 'webhook', 'railway']));
"""

DOWN = """
DELETE FROM deployment_setting WHERE adapter = 'railway';
DELETE FROM deployment WHERE adapter = 'railway';
ALTER TABLE deployment_setting DROP CONSTRAINT deployment_setting_adapter_known;
ALTER TABLE deployment_setting ADD CONSTRAINT deployment_setting_adapter_known
    CHECK (adapter = ANY (ARRAY['static', 'cloudflare', 'webhook']));
ALTER TABLE deployment DROP CONSTRAINT deployment_adapter_known;
ALTER TABLE deployment ADD CONSTRAINT deployment_adapter_known
    CHECK (adapter = ANY (ARRAY['static', 'cloudflare', 'webhook']));
"""


def upgrade() -> None:
    """Apply the migration."""
    run_script(UP)


def downgrade() -> None:
    """Revert it."""
    run_script(DOWN)
