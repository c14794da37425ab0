-- Money, plans and rewards.

CREATE TYPE referral_status AS ENUM ('pending', 'completed');
CREATE TYPE subscription_status AS ENUM (
    'incomplete', 'trialing', 'active', 'past_due', 'canceled', 'unpaid', 'paused'
);

CREATE TABLE referral (
    referrer_id text NOT NULL,
    referred_id text NOT NULL,
    status referral_status NOT NULL DEFAULT 'pending',
    credits int NOT NULL,
    is_legacy boolean NOT NULL DEFAULT false,
    created_at timestamp NOT NULL DEFAULT (now() AT TIME ZONE 'utc'),
    completed_at timestamp,
    CONSTRAINT referral_pk PRIMARY KEY (referrer_id, referred_id),
    CONSTRAINT referral_referred_id_fk FOREIGN KEY (referred_id) REFERENCES "user" (id),
    CONSTRAINT referral_referrer_id_fk FOREIGN KEY (referrer_id) REFERENCES "user" (id)
);
CREATE INDEX idx_referral_referred ON referral (referred_id);

CREATE TABLE ad_impression (
    id text NOT NULL DEFAULT gen_random_uuid()::text,
    user_id text NOT NULL,
    ad_text text NOT NULL,
    title text NOT NULL,
    cta text NOT NULL DEFAULT '',
    url text NOT NULL,
    favicon text NOT NULL,
    click_url text NOT NULL,
    imp_url text NOT NULL,
    payout numeric(10,6) NOT NULL,
    credits_granted int NOT NULL DEFAULT 0,
    grant_operation_id text,
    served_at timestamptz NOT NULL DEFAULT now(),
    impression_fired_at timestamptz,
    clicked_at timestamptz,
    CONSTRAINT ad_impression_pk PRIMARY KEY (id),
    CONSTRAINT ad_impression_imp_url_unique UNIQUE (imp_url),
    CONSTRAINT ad_impression_user_id_fk FOREIGN KEY (user_id) REFERENCES "user" (id) ON DELETE CASCADE
);
CREATE INDEX idx_ad_impression_user ON ad_impression (user_id, served_at);

CREATE TABLE subscription (
    stripe_subscription_id text NOT NULL,
    stripe_customer_id text NOT NULL,
    user_id text,
    stripe_price_id text NOT NULL,
    tier int,
    scheduled_tier int,
    status subscription_status NOT NULL DEFAULT 'active',
    billing_period_start timestamptz NOT NULL,
    billing_period_end timestamptz NOT NULL,
    cancel_at_period_end boolean NOT NULL DEFAULT false,
    canceled_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT subscription_pk PRIMARY KEY (stripe_subscription_id),
    CONSTRAINT subscription_user_id_fk FOREIGN KEY (user_id) REFERENCES "user" (id) ON DELETE CASCADE
);
CREATE INDEX idx_subscription_customer ON subscription (stripe_customer_id);
CREATE INDEX idx_subscription_status ON subscription (status) WHERE status = 'active';
CREATE INDEX idx_subscription_user ON subscription (user_id);

CREATE TABLE limit_override (
    user_id text NOT NULL,
    credits_per_block int NOT NULL,
    block_duration_hours int NOT NULL,
    weekly_credit_limit int NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT limit_override_pk PRIMARY KEY (user_id),
    CONSTRAINT limit_override_user_id_fk FOREIGN KEY (user_id) REFERENCES "user" (id) ON DELETE CASCADE
);

CREATE TABLE sync_failure (
    id text NOT NULL,
    provider text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    last_attempt_at timestamptz NOT NULL DEFAULT now(),
    retry_count int NOT NULL DEFAULT 1,
    last_error text NOT NULL,
    CONSTRAINT sync_failure_pk PRIMARY KEY (id)
);
CREATE INDEX idx_sync_failure_retry ON sync_failure (retry_count, last_attempt_at) WHERE retry_count < 5;
