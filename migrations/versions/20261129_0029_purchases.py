"""Purchases with their refunds and disputes, Stripe's events, and what reconciliation found.

Revision: 0029
Revises: 0028
"""

from migrations.replacing import run_script

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None

UP = """
ALTER TABLE credit_entry VALIDATE CONSTRAINT credit_entry_kind_known;

CREATE TABLE purchase (
    id text NOT NULL,
    user_id text NOT NULL,
    org_id text,
    kind text NOT NULL,
    credits bigint NOT NULL,
    amount_cents bigint NOT NULL,
    currency text NOT NULL,
    state text NOT NULL DEFAULT 'created',
    version int NOT NULL DEFAULT 0,
    stripe_customer_id text NOT NULL,
    stripe_payment_intent_id text,
    stripe_checkout_session_id text,
    stripe_charge_id text,
    payment_method_type text,
    card_brand text,
    card_last4 text,
    card_fingerprint text,
    failure_code text,
    failure_message text,
    refunded_cents bigint NOT NULL DEFAULT 0,
    disputed_cents bigint NOT NULL DEFAULT 0,
    taken_back bigint NOT NULL DEFAULT 0,
    fraud_warning_id text,
    billing jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    paid_at timestamptz,
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT purchase_pk PRIMARY KEY (id),
    CONSTRAINT purchase_user_id_fk FOREIGN KEY (user_id) REFERENCES "user" (id) ON DELETE CASCADE,
    CONSTRAINT purchase_org_id_fk FOREIGN KEY (org_id) REFERENCES org (id) ON DELETE CASCADE,
    CONSTRAINT purchase_stripe_payment_intent_id_unique UNIQUE (stripe_payment_intent_id),
    CONSTRAINT purchase_stripe_checkout_session_id_unique UNIQUE (stripe_checkout_session_id),
    CONSTRAINT purchase_stripe_charge_id_unique UNIQUE (stripe_charge_id),
    CONSTRAINT purchase_kind_known CHECK (kind IN ('direct', 'checkout', 'auto_topup')),
    CONSTRAINT purchase_state_known CHECK (state IN (
        'created', 'pending', 'failed', 'cancelled', 'paid', 'partly_refunded', 'refunded', 'disputed', 'lost'
    )),
    CONSTRAINT purchase_amounts_positive CHECK (credits > 0 AND amount_cents > 0),
    CONSTRAINT purchase_taken_back_bounded CHECK (taken_back >= 0 AND taken_back <= credits),
    CONSTRAINT purchase_refunded_and_disputed_not_negative CHECK (refunded_cents >= 0 AND disputed_cents >= 0)
);
CREATE INDEX idx_purchase_account ON purchase (coalesce(org_id, user_id), created_at);
CREATE INDEX idx_purchase_customer ON purchase (stripe_customer_id);
CREATE INDEX idx_purchase_card ON purchase (card_fingerprint, created_at);
CREATE INDEX idx_purchase_created ON purchase (created_at);
CREATE INDEX idx_purchase_user ON purchase (user_id);
CREATE INDEX idx_purchase_org ON purchase (org_id) WHERE org_id IS NOT NULL;
CREATE INDEX idx_purchase_open ON purchase (created_at) WHERE state IN ('created', 'pending');

CREATE TABLE purchase_refund (
    id text NOT NULL,
    purchase_id text NOT NULL,
    amount_cents bigint NOT NULL,
    status text NOT NULL,
    reason text,
    created_at timestamptz NOT NULL,
    CONSTRAINT purchase_refund_pk PRIMARY KEY (id),
    CONSTRAINT purchase_refund_purchase_id_fk FOREIGN KEY (purchase_id) REFERENCES purchase (id) ON DELETE CASCADE
);
CREATE INDEX idx_purchase_refund_purchase ON purchase_refund (purchase_id);

CREATE TABLE purchase_dispute (
    id text NOT NULL,
    purchase_id text NOT NULL,
    amount_cents bigint NOT NULL,
    withdrawn_cents bigint NOT NULL,
    status text NOT NULL,
    reason text,
    created_at timestamptz NOT NULL,
    cleared_at timestamptz,
    CONSTRAINT purchase_dispute_pk PRIMARY KEY (id),
    CONSTRAINT purchase_dispute_purchase_id_fk FOREIGN KEY (purchase_id) REFERENCES purchase (id) ON DELETE CASCADE
);
CREATE INDEX idx_purchase_dispute_purchase ON purchase_dispute (purchase_id);

CREATE TABLE stripe_event (
    id text NOT NULL,
    type text NOT NULL,
    object_id text,
    created_at timestamptz NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    handled_at timestamptz,
    attempts int NOT NULL DEFAULT 0,
    error text,
    ignored text,
    payload jsonb NOT NULL,
    CONSTRAINT stripe_event_pk PRIMARY KEY (id)
);
CREATE INDEX idx_stripe_event_received ON stripe_event (received_at);
CREATE INDEX idx_stripe_event_waiting ON stripe_event (received_at) WHERE handled_at IS NULL;
CREATE INDEX idx_stripe_event_ignored ON stripe_event (received_at) WHERE ignored IS NOT NULL;

CREATE TABLE webhook_refusal (
    day date NOT NULL,
    reason text NOT NULL,
    count int NOT NULL DEFAULT 1,
    last_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT webhook_refusal_pk PRIMARY KEY (day, reason)
);

CREATE TABLE reconciliation (
    id bigint GENERATED ALWAYS AS IDENTITY,
    since timestamptz NOT NULL,
    started_at timestamptz NOT NULL,
    finished_at timestamptz,
    checked int NOT NULL DEFAULT 0,
    findings jsonb NOT NULL DEFAULT '[]'::jsonb,
    error text,
    CONSTRAINT reconciliation_pk PRIMARY KEY (id)
);
"""

DOWN = """
DROP TABLE reconciliation, webhook_refusal, stripe_event, purchase_dispute, purchase_refund, purchase;

ALTER TABLE credit_entry DROP CONSTRAINT credit_entry_kind_known;
ALTER TABLE credit_entry ADD CONSTRAINT credit_entry_kind_known
    CHECK (kind IN ('grant', 'debit', 'expiry', 'revocation', 'reinstatement', 'debt_cleared')) NOT VALID;
"""


def upgrade() -> None:
    run_script(UP)


def downgrade() -> None:
    run_script(DOWN)
