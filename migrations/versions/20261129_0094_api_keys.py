"""Keys with an id of their own: scopes, environment, limits, rotation. Their sessions are the credentials, as of all keys.

Revision: 0094
Revises: 0093
"""

from migrations.replacing import replace_function, restore_function, run_script

revision = "0094"
down_revision = "0093"
branch_labels = None
depends_on = None

UP = """
CREATE TABLE api_key (
    id text NOT NULL DEFAULT concat('key_', gen_random_uuid()) CONSTRAINT api_key_pk PRIMARY KEY,
    key_id text NOT NULL CONSTRAINT api_key_key_id_unique UNIQUE,
    hashed_key text NOT NULL,
    prev_hashed_key text,
    prev_valid_until timestamptz,
    name text,
    last4 text NOT NULL,
    environment text NOT NULL,
    permissions text[] NOT NULL,
    active boolean NOT NULL DEFAULT true,
    user_id text NOT NULL CONSTRAINT api_key_user_id_fk REFERENCES "user" (id) ON DELETE CASCADE,
    org_id text CONSTRAINT api_key_org_id_fk REFERENCES org (id) ON DELETE CASCADE,
    created_by text CONSTRAINT api_key_created_by_fk REFERENCES "user" (id) ON DELETE SET NULL,
    allowed_models text[],
    allowed_agents text[],
    allowed_ips text[],
    rpm_limit integer,
    tpm_limit integer,
    concurrency_limit integer,
    is_strict boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    rotated_at timestamptz,
    expires_at timestamptz,
    last_used_at timestamptz,
    revoked_at timestamptz,
    CONSTRAINT api_key_environment_known CHECK (environment = ANY (ARRAY['live'::text, 'test'::text])),
    CONSTRAINT api_key_environment_in_id CHECK (starts_with(key_id, concat('sk_', environment, '_'))),
    CONSTRAINT api_key_limits_positive CHECK (rpm_limit > 0 AND tpm_limit > 0 AND concurrency_limit > 0),
    CONSTRAINT api_key_grace_complete CHECK ((prev_hashed_key IS NULL) = (prev_valid_until IS NULL))
);
CREATE INDEX idx_api_key_user ON api_key (user_id, revoked_at) WHERE revoked_at IS NOT NULL;
CREATE INDEX idx_api_key_org ON api_key (org_id, revoked_at) WHERE revoked_at IS NOT NULL;
CREATE INDEX idx_api_key_created_by ON api_key (created_by);
ALTER TYPE gateway_ask ADD ATTRIBUTE secret text, ADD ATTRIBUTE scope text, ADD ATTRIBUTE drops text[];
"""
DOWN = """
ALTER TYPE gateway_ask DROP ATTRIBUTE secret, DROP ATTRIBUTE scope, DROP ATTRIBUTE drops;
DELETE FROM session WHERE "sessionToken" LIKE 'sk\\_%';
DROP TABLE api_key;
"""
FUNCTIONS = (
    "accounts/api_key_follow_session",
    "ledger/api_key_refusal",
    "ledger/gateway_admit",
    "ledger/gateway_admit_many",
    "ledger/budget_subject_name",
)


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
