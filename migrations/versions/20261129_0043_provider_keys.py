"""Provider keys of organisations.

Revision: 0043
Revises: 0042
"""

from migrations.replacing import run_script

revision = "0043"
down_revision = "0042"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_script("""
    CREATE TABLE org_provider_key (
        id text NOT NULL DEFAULT (gen_random_uuid())::text,
        org_id text NOT NULL,
        provider text NOT NULL,
        name text NOT NULL,
        sealed text NOT NULL,
        hint text NOT NULL,
        models text[],
        user_ids text[],
        key_ids text[],
        is_active boolean NOT NULL DEFAULT true,
        created_by text,
        created_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT org_provider_key_pk PRIMARY KEY (id),
        CONSTRAINT org_provider_key_org_id_fk FOREIGN KEY (org_id) REFERENCES org (id) ON DELETE CASCADE,
        CONSTRAINT org_provider_key_created_by_fk FOREIGN KEY (created_by) REFERENCES "user" (id) ON DELETE SET NULL,
        CONSTRAINT org_provider_key_provider_known
            CHECK (provider IN ('anthropic', 'gemini', 'openai', 'openrouter'))
    );
    CREATE INDEX idx_org_provider_key_org ON org_provider_key (org_id);
    """)


def downgrade() -> None:
    run_script("DROP TABLE org_provider_key;")
