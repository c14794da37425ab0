"""Device login of clients of projects: one token for thirty days, which may be given by a key or a command line session and ends with
it; keys at providers that such clients set.

Revision: 0126
Revises: 0125
"""

from migrations.replacing import replace_function, restore_function, run_script

revision = "0126"
down_revision = "0125"
branch_labels = None
depends_on = None

UP = """
ALTER TABLE session ADD COLUMN fixed_expiry boolean NOT NULL DEFAULT false;
ALTER TABLE oauth_device_grant ADD COLUMN single_token boolean NOT NULL DEFAULT false;
ALTER TABLE org_provider_key
    ADD COLUMN from_client boolean NOT NULL DEFAULT false,
    ADD COLUMN updated_at timestamptz,
    ADD CONSTRAINT org_provider_key_client_of_person CHECK (NOT from_client OR user_id IS NOT NULL) NOT VALID,
    DROP CONSTRAINT org_provider_key_provider_known,
    ADD CONSTRAINT org_provider_key_provider_known CHECK (provider = ANY (ARRAY[
        'anthropic', 'aws', 'azure', 'gemini', 'groq', 'mistral', 'openai', 'openrouter'])) NOT VALID;
CREATE UNIQUE INDEX idx_org_provider_key_client ON org_provider_key (user_id, provider) WHERE from_client;
"""
DOWN = """
DELETE FROM org_provider_key WHERE provider = ANY (ARRAY['aws', 'azure', 'groq', 'mistral']);
DROP INDEX idx_org_provider_key_client;
ALTER TABLE org_provider_key
    DROP CONSTRAINT org_provider_key_provider_known,
    ADD CONSTRAINT org_provider_key_provider_known CHECK (provider = ANY (ARRAY[
        'anthropic', 'gemini', 'openai', 'openrouter'])),
    DROP COLUMN from_client,
    DROP COLUMN updated_at;
ALTER TABLE oauth_device_grant DROP COLUMN single_token;
ALTER TABLE session DROP COLUMN fixed_expiry;
"""


def upgrade() -> None:
    """Apply the migration."""
    run_script(UP)
    replace_function("accounts/session_slide", revision)
    replace_function("accounts/session_follow_creator", revision)


def downgrade() -> None:
    """Revert it."""
    restore_function("accounts/session_follow_creator", revision)
    restore_function("accounts/session_slide", revision)
    run_script(DOWN)
