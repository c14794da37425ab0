-- Organisations.

CREATE TYPE org_role AS ENUM ('owner', 'admin', 'member');

CREATE TABLE org (
    id text NOT NULL DEFAULT gen_random_uuid()::text,
    name text NOT NULL,
    slug text NOT NULL,
    description text,
    owner_id text NOT NULL,
    stripe_customer_id text,
    stripe_subscription_id text,
    current_period_start timestamptz,
    current_period_end timestamptz,
    auto_topup_enabled boolean NOT NULL DEFAULT false,
    auto_topup_threshold int NOT NULL,
    auto_topup_amount int NOT NULL,
    credit_limit int,
    billing_alerts boolean NOT NULL DEFAULT true,
    usage_alerts boolean NOT NULL DEFAULT true,
    weekly_reports boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT org_pk PRIMARY KEY (id),
    CONSTRAINT org_slug_unique UNIQUE (slug),
    CONSTRAINT org_stripe_customer_id_unique UNIQUE (stripe_customer_id),
    CONSTRAINT org_owner_id_fk FOREIGN KEY (owner_id) REFERENCES "user" (id) ON DELETE CASCADE
);
CREATE INDEX idx_org_owner ON org (owner_id);

CREATE TABLE org_member (
    org_id text NOT NULL,
    user_id text NOT NULL,
    role org_role NOT NULL,
    joined_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT org_member_pk PRIMARY KEY (org_id, user_id),
    CONSTRAINT org_member_org_id_fk FOREIGN KEY (org_id) REFERENCES org (id) ON DELETE CASCADE,
    CONSTRAINT org_member_user_id_fk FOREIGN KEY (user_id) REFERENCES "user" (id) ON DELETE CASCADE
);
CREATE INDEX idx_org_member_user ON org_member (user_id);

CREATE TABLE org_repo (
    id text NOT NULL DEFAULT gen_random_uuid()::text,
    org_id text NOT NULL,
    repo_url text NOT NULL,
    repo_name text NOT NULL,
    repo_owner text,
    approved_by text NOT NULL,
    approved_at timestamptz NOT NULL DEFAULT now(),
    is_active boolean NOT NULL DEFAULT true,
    CONSTRAINT org_repo_pk PRIMARY KEY (id),
    CONSTRAINT org_repo_approved_by_fk FOREIGN KEY (approved_by) REFERENCES "user" (id),
    CONSTRAINT org_repo_org_id_fk FOREIGN KEY (org_id) REFERENCES org (id) ON DELETE CASCADE
);
CREATE INDEX idx_org_repo_active ON org_repo (org_id, is_active);
CREATE INDEX idx_org_repo_unique ON org_repo (org_id, repo_url);

CREATE TABLE org_invite (
    id text NOT NULL DEFAULT gen_random_uuid()::text,
    org_id text NOT NULL,
    email text NOT NULL,
    role org_role NOT NULL,
    token text NOT NULL,
    invited_by text NOT NULL,
    expires_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    accepted_at timestamptz,
    accepted_by text,
    CONSTRAINT org_invite_pk PRIMARY KEY (id),
    CONSTRAINT org_invite_token_unique UNIQUE (token),
    CONSTRAINT org_invite_accepted_by_fk FOREIGN KEY (accepted_by) REFERENCES "user" (id),
    CONSTRAINT org_invite_invited_by_fk FOREIGN KEY (invited_by) REFERENCES "user" (id),
    CONSTRAINT org_invite_org_id_fk FOREIGN KEY (org_id) REFERENCES org (id) ON DELETE CASCADE
);
CREATE INDEX idx_org_invite_email ON org_invite (org_id, email);
CREATE INDEX idx_org_invite_expires ON org_invite (expires_at);
CREATE INDEX idx_org_invite_token ON org_invite (token);

CREATE TABLE org_feature (
    org_id text NOT NULL,
    feature text NOT NULL,
    config jsonb,
    is_active boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT org_feature_pk PRIMARY KEY (org_id, feature),
    CONSTRAINT org_feature_org_id_fk FOREIGN KEY (org_id) REFERENCES org (id) ON DELETE CASCADE
);
CREATE INDEX idx_org_feature_active ON org_feature (org_id, is_active);
