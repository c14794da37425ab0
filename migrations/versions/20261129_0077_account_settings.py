"""The theme of an account, and from where its sessions were opened and used.

Revision: 0077
Revises: 0076
"""

from migrations.replacing import replace_function, restore_function, run_script

revision = "0077"
down_revision = "0076"
branch_labels = None
depends_on = None

FUNCTIONS = ("ledger/gateway_admit", "ledger/gateway_admit_many")

UP = """
ALTER TABLE "user" ADD COLUMN theme text NOT NULL DEFAULT 'system';
ALTER TABLE "user" ADD CONSTRAINT user_theme CHECK (theme IN ('system', 'light', 'dark')) NOT VALID;
ALTER TABLE "user" VALIDATE CONSTRAINT user_theme;
ALTER TABLE session ADD COLUMN user_agent text;
ALTER TABLE session ADD COLUMN last_used_ip text;
ALTER TYPE gateway_ask ADD ATTRIBUTE ip text;
"""

DOWN = """
ALTER TYPE gateway_ask DROP ATTRIBUTE ip;
ALTER TABLE session DROP COLUMN last_used_ip;
ALTER TABLE session DROP COLUMN user_agent;
ALTER TABLE "user" DROP COLUMN theme;
"""


def upgrade() -> None:
    """Apply the migration."""
    run_script(UP)
    for name in FUNCTIONS:
        replace_function(name, revision)


def downgrade() -> None:
    """Revert it."""
    for name in reversed(FUNCTIONS):
        restore_function(name, revision)
    run_script(DOWN)
