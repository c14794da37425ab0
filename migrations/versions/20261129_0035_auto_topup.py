"""Automatic top-up: its state and consents by account, and the links that confirm a payment.

Revision: 0035
Revises: 0034
"""

from migrations.replacing import run_script

revision = "0035"
down_revision = "0034"
branch_labels = None
depends_on = None

UP = """
CREATE TABLE auto_topup (
    id text NOT NULL,
    user_id text,
    org_id text,
    monthly_cap_cents bigint,
    off_reason text,
    pause text,
    paused_at timestamptz,
    retry_at timestamptz,
    decline_code text,
    decline_message text,
    failures int NOT NULL DEFAULT 0,
    purchase_id text,
    payment_method_id text,
    queued_at timestamptz,
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT auto_topup_pk PRIMARY KEY (id),
    CONSTRAINT auto_topup_user_id_unique UNIQUE (user_id),
    CONSTRAINT auto_topup_org_id_unique UNIQUE (org_id),
    CONSTRAINT auto_topup_user_id_fk FOREIGN KEY (user_id) REFERENCES "user" (id) ON DELETE CASCADE,
    CONSTRAINT auto_topup_org_id_fk FOREIGN KEY (org_id) REFERENCES org (id) ON DELETE CASCADE,
    CONSTRAINT auto_topup_single_owner CHECK (num_nonnulls(user_id, org_id) = 1),
    CONSTRAINT auto_topup_id_is_owner CHECK (id = coalesce(user_id, org_id)),
    CONSTRAINT auto_topup_pause_known CHECK (pause IN ('card', 'decline', 'confirmation', 'cap', 'limit', 'stripe')),
    CONSTRAINT auto_topup_cap_positive CHECK (monthly_cap_cents > 0)
);

CREATE TABLE auto_topup_consent (
    id bigint GENERATED ALWAYS AS IDENTITY,
    account_id text NOT NULL,
    user_id text NOT NULL,
    text text NOT NULL,
    ceiling_cents bigint NOT NULL,
    monthly_cap_cents bigint,
    source text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT auto_topup_consent_pk PRIMARY KEY (id),
    CONSTRAINT auto_topup_consent_account_id_fk FOREIGN KEY (account_id) REFERENCES auto_topup (id) ON DELETE CASCADE,
    CONSTRAINT auto_topup_consent_user_id_fk FOREIGN KEY (user_id) REFERENCES "user" (id) ON DELETE CASCADE
);
CREATE INDEX idx_auto_topup_consent_account ON auto_topup_consent (account_id, id);
CREATE INDEX idx_auto_topup_consent_user ON auto_topup_consent (user_id);

CREATE TABLE payment_confirmation (
    token_hash text NOT NULL,
    purchase_id text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    used_at timestamptz,
    CONSTRAINT payment_confirmation_pk PRIMARY KEY (token_hash),
    CONSTRAINT payment_confirmation_purchase_id_fk FOREIGN KEY (purchase_id)
        REFERENCES purchase (id) ON DELETE CASCADE
);
CREATE INDEX idx_payment_confirmation_purchase ON payment_confirmation (purchase_id);

CREATE UNIQUE INDEX idx_purchase_auto_topup_in_flight ON purchase (coalesce(org_id, user_id))
    WHERE kind = 'auto_topup' AND state IN ('created', 'pending');
CREATE INDEX idx_user_auto_topup ON "user" (id) WHERE auto_topup_enabled;
"""

DOWN = """
DROP INDEX idx_user_auto_topup;
DROP INDEX idx_purchase_auto_topup_in_flight;
DROP TABLE payment_confirmation, auto_topup_consent, auto_topup;
"""


def upgrade() -> None:
    run_script(UP)


def downgrade() -> None:
    run_script(DOWN)
