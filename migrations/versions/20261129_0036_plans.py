"""Plans with their windows, subscriptions to them, and the invoices of those.

Revision: 0036
Revises: 0035
"""

from migrations.replacing import run_script

revision = "0036"
down_revision = "0035"
branch_labels = None
depends_on = None

UP = """
ALTER TYPE grant_type ADD VALUE IF NOT EXISTS 'plan';

CREATE TABLE plan (
    id text NOT NULL,
    name text NOT NULL,
    description text NOT NULL DEFAULT '',
    version int NOT NULL DEFAULT 1,
    price_cents int NOT NULL,
    currency text NOT NULL DEFAULT 'usd',
    interval text NOT NULL,
    features jsonb NOT NULL DEFAULT '[]'::jsonb,
    models jsonb,
    requests_per_minute int,
    seats int,
    included_credits bigint NOT NULL DEFAULT 0,
    tier int,
    active boolean NOT NULL DEFAULT true,
    public boolean NOT NULL DEFAULT true,
    sort int NOT NULL DEFAULT 0,
    stripe_product_id text,
    stripe_price_id text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT plan_pk PRIMARY KEY (id),
    CONSTRAINT plan_name_version_unique UNIQUE (name, version),
    CONSTRAINT plan_stripe_price_id_unique UNIQUE (stripe_price_id),
    CONSTRAINT plan_interval_known CHECK (interval IN ('month', 'year')),
    CONSTRAINT plan_price_not_negative CHECK (price_cents >= 0),
    CONSTRAINT plan_included_credits_not_negative CHECK (included_credits >= 0),
    CONSTRAINT plan_limits_positive CHECK (requests_per_minute > 0 AND seats > 0)
);
CREATE UNIQUE INDEX idx_plan_active_name ON plan (name) WHERE active;

CREATE TABLE plan_window (
    plan_id text NOT NULL,
    name text NOT NULL,
    hours int,
    credits bigint NOT NULL,
    CONSTRAINT plan_window_pk PRIMARY KEY (plan_id, name),
    CONSTRAINT plan_window_plan_id_fk FOREIGN KEY (plan_id) REFERENCES plan (id) ON DELETE CASCADE,
    CONSTRAINT plan_window_hours_positive CHECK (hours > 0),
    CONSTRAINT plan_window_credits_positive CHECK (credits > 0)
);

ALTER TABLE subscription
    ADD COLUMN plan_id text,
    ADD COLUMN scheduled_plan_id text,
    ADD COLUMN ended_at timestamptz,
    ADD COLUMN version int NOT NULL DEFAULT 0,
    ADD CONSTRAINT subscription_plan_id_fk FOREIGN KEY (plan_id) REFERENCES plan (id) ON DELETE RESTRICT,
    ADD CONSTRAINT subscription_scheduled_plan_id_fk FOREIGN KEY (scheduled_plan_id)
        REFERENCES plan (id) ON DELETE RESTRICT;
CREATE INDEX idx_subscription_plan ON subscription (plan_id);
CREATE UNIQUE INDEX idx_subscription_live ON subscription (user_id)
    WHERE status IN ('trialing', 'active', 'past_due', 'unpaid', 'paused');

CREATE TABLE subscription_invoice (
    id text NOT NULL,
    stripe_subscription_id text NOT NULL,
    plan_id text NOT NULL,
    number text,
    billing_reason text NOT NULL,
    status text NOT NULL,
    amount_cents bigint NOT NULL,
    hosted_invoice_url text,
    period_start timestamptz NOT NULL,
    period_end timestamptz NOT NULL,
    stripe_payment_intent_id text,
    stripe_charge_id text,
    operation_id text,
    credits bigint NOT NULL DEFAULT 0,
    refunded_cents bigint NOT NULL DEFAULT 0,
    disputed_cents bigint NOT NULL DEFAULT 0,
    taken_back bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    paid_at timestamptz,
    CONSTRAINT subscription_invoice_pk PRIMARY KEY (id),
    CONSTRAINT subscription_invoice_operation_id_unique UNIQUE (operation_id),
    CONSTRAINT subscription_invoice_stripe_payment_intent_id_unique UNIQUE (stripe_payment_intent_id),
    CONSTRAINT subscription_invoice_stripe_charge_id_unique UNIQUE (stripe_charge_id),
    CONSTRAINT subscription_invoice_stripe_subscription_id_fk FOREIGN KEY (stripe_subscription_id)
        REFERENCES subscription (stripe_subscription_id) ON DELETE CASCADE,
    CONSTRAINT subscription_invoice_plan_id_fk FOREIGN KEY (plan_id) REFERENCES plan (id) ON DELETE RESTRICT,
    CONSTRAINT subscription_invoice_credits_have_operation CHECK ((credits > 0) = (operation_id IS NOT NULL)),
    CONSTRAINT subscription_invoice_taken_back_bounded CHECK (taken_back BETWEEN 0 AND credits),
    CONSTRAINT subscription_invoice_credits_need_payment CHECK (credits = 0 OR status = 'paid')
);
CREATE INDEX idx_subscription_invoice_subscription ON subscription_invoice (stripe_subscription_id, created_at);
CREATE INDEX idx_subscription_invoice_plan ON subscription_invoice (plan_id);
"""

# the value of the type stays: grants may have it
DOWN = """
DROP TABLE subscription_invoice;

DROP INDEX idx_subscription_live, idx_subscription_plan;
ALTER TABLE subscription DROP COLUMN plan_id, DROP COLUMN scheduled_plan_id, DROP COLUMN ended_at,
    DROP COLUMN version;

DROP TABLE plan_window, plan;
"""


def upgrade() -> None:
    run_script(UP)


def downgrade() -> None:
    run_script(DOWN)
