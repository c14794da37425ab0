-- People, how they sign in, and what they have written lately.

CREATE TYPE session_type AS ENUM ('web', 'pat', 'cli');
CREATE TYPE api_key_type AS ENUM ('anthropic', 'gemini', 'openai');

CREATE TABLE "user" (
    id text NOT NULL DEFAULT gen_random_uuid()::text,
    name text,
    email text NOT NULL,
    password text,
    "emailVerified" timestamp,
    image text,
    stripe_customer_id text,
    stripe_price_id text,
    next_quota_reset timestamp DEFAULT (now() AT TIME ZONE 'utc' + interval '1 month'),
    created_at timestamp NOT NULL DEFAULT (now() AT TIME ZONE 'utc'),
    referral_code text DEFAULT ('ref-' || gen_random_uuid()),
    referral_limit int NOT NULL DEFAULT 5,
    discord_id text,
    handle text,
    auto_topup_enabled boolean NOT NULL DEFAULT false,
    auto_topup_threshold int,
    auto_topup_amount int,
    banned boolean NOT NULL DEFAULT false,
    fallback_to_a_la_carte boolean NOT NULL DEFAULT false,
    banned_reason text,
    CONSTRAINT user_pk PRIMARY KEY (id),
    CONSTRAINT user_discord_id_unique UNIQUE (discord_id),
    CONSTRAINT user_email_unique UNIQUE (email),
    CONSTRAINT user_handle_unique UNIQUE (handle),
    CONSTRAINT user_referral_code_unique UNIQUE (referral_code),
    CONSTRAINT user_stripe_customer_id_unique UNIQUE (stripe_customer_id)
);

CREATE TABLE account (
    "userId" text NOT NULL,
    type text NOT NULL,
    provider text NOT NULL,
    "providerAccountId" text NOT NULL,
    refresh_token text,
    access_token text,
    expires_at int,
    token_type text,
    scope text,
    id_token text,
    session_state text,
    CONSTRAINT account_pk PRIMARY KEY (provider, "providerAccountId"),
    CONSTRAINT "account_userId_fk" FOREIGN KEY ("userId") REFERENCES "user" (id) ON DELETE CASCADE
);
CREATE INDEX idx_account_user ON account ("userId");

CREATE TABLE fingerprint (
    id text NOT NULL,
    sig_hash text,
    created_at timestamp NOT NULL DEFAULT (now() AT TIME ZONE 'utc'),
    CONSTRAINT fingerprint_pk PRIMARY KEY (id)
);

CREATE TABLE session (
    "sessionToken" text NOT NULL,
    "userId" text NOT NULL,
    expires timestamp NOT NULL,
    fingerprint_id text,
    type session_type NOT NULL DEFAULT 'web',
    created_at timestamp NOT NULL DEFAULT (now() AT TIME ZONE 'utc'),
    name text,
    token_hint text NOT NULL,
    cli_auth_hash text,
    last_used_at timestamp,
    parent text,
    cli_collected_at timestamp,
    CONSTRAINT session_pk PRIMARY KEY ("sessionToken"),
    CONSTRAINT session_fingerprint_id_fk FOREIGN KEY (fingerprint_id) REFERENCES fingerprint (id),
    CONSTRAINT "session_userId_fk" FOREIGN KEY ("userId") REFERENCES "user" (id) ON DELETE CASCADE
);
CREATE INDEX idx_session_fingerprint ON session (fingerprint_id);
CREATE INDEX idx_session_user ON session ("userId", type);

CREATE TABLE "verificationToken" (
    identifier text NOT NULL,
    token text NOT NULL,
    expires timestamp NOT NULL,
    CONSTRAINT "verificationToken_pk" PRIMARY KEY (identifier, token)
);

CREATE TABLE login_link (
    token_hash text NOT NULL,
    email text NOT NULL,
    next text,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    used_at timestamptz,
    ip text,
    identity jsonb,
    browser text,
    CONSTRAINT login_link_pk PRIMARY KEY (token_hash)
);
CREATE INDEX ix_login_link_email ON login_link (email);
CREATE INDEX ix_login_link_expires_at ON login_link (expires_at);

CREATE TABLE encrypted_api_keys (
    user_id text NOT NULL,
    type api_key_type NOT NULL,
    api_key text NOT NULL,
    CONSTRAINT encrypted_api_keys_pk PRIMARY KEY (user_id, type),
    CONSTRAINT encrypted_api_keys_user_id_fk FOREIGN KEY (user_id) REFERENCES "user" (id) ON DELETE CASCADE
);

CREATE TABLE write_quota (
    user_id text NOT NULL,
    name text NOT NULL,
    used bigint NOT NULL,
    until timestamptz NOT NULL,
    CONSTRAINT write_quota_pk PRIMARY KEY (user_id, name),
    CONSTRAINT write_quota_user_id_fkey FOREIGN KEY (user_id) REFERENCES "user" (id) ON DELETE CASCADE
) WITH (fillfactor = 50);
