-- Accounts, their grants, what is held for calls in flight, and the journal.

CREATE TYPE grant_type AS ENUM (
    'free', 'referral', 'purchase', 'admin', 'organization', 'subscription', 'referral_legacy', 'ad'
);

-- Updated by every call without a change to an index: room for the new version on the same page.
CREATE TABLE credit_account (
    id text NOT NULL,
    user_id text,
    org_id text,
    carry_micro int NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT credit_account_pk PRIMARY KEY (id),
    CONSTRAINT credit_account_org_id_unique UNIQUE (org_id),
    CONSTRAINT credit_account_user_id_unique UNIQUE (user_id),
    CONSTRAINT credit_account_org_id_fk FOREIGN KEY (org_id) REFERENCES org (id) ON DELETE CASCADE,
    CONSTRAINT credit_account_user_id_fk FOREIGN KEY (user_id) REFERENCES "user" (id) ON DELETE CASCADE,
    CONSTRAINT credit_account_carry_micro_fraction CHECK (carry_micro >= 0 AND carry_micro < 1000000),
    CONSTRAINT credit_account_id_is_owner CHECK (id = coalesce(user_id, org_id)),
    CONSTRAINT credit_account_single_owner CHECK (num_nonnulls(user_id, org_id) = 1)
) WITH (fillfactor = 70);

CREATE TABLE credit_ledger (
    operation_id text NOT NULL,
    user_id text NOT NULL,
    principal bigint NOT NULL,
    balance bigint NOT NULL,
    type grant_type NOT NULL,
    description text,
    priority int NOT NULL,
    expires_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    org_id text,
    stripe_subscription_id text,
    CONSTRAINT credit_ledger_pk PRIMARY KEY (operation_id),
    CONSTRAINT credit_ledger_org_id_fk FOREIGN KEY (org_id) REFERENCES org (id) ON DELETE CASCADE,
    CONSTRAINT credit_ledger_user_id_fk FOREIGN KEY (user_id) REFERENCES "user" (id) ON DELETE CASCADE
);
CREATE INDEX idx_credit_ledger_active_balance ON credit_ledger (user_id, balance, expires_at, priority, created_at)
    WHERE balance <> 0 AND expires_at IS NULL;
CREATE INDEX idx_credit_ledger_expiring ON credit_ledger (expires_at) WHERE balance > 0;
CREATE INDEX idx_credit_ledger_org ON credit_ledger (org_id);
CREATE INDEX idx_credit_ledger_spendable ON credit_ledger (coalesce(org_id, user_id)) WHERE balance <> 0;
CREATE INDEX idx_credit_ledger_user ON credit_ledger (user_id, type, created_at);

CREATE TABLE credit_hold (
    request_id text NOT NULL,
    account_id text NOT NULL,
    user_id text NOT NULL,
    run_id text,
    model text NOT NULL,
    door text NOT NULL,
    amount bigint NOT NULL,
    worker text NOT NULL,
    state text NOT NULL DEFAULT 'live',
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    lost_at timestamptz,
    CONSTRAINT credit_hold_pk PRIMARY KEY (request_id),
    CONSTRAINT credit_hold_account_id_fk FOREIGN KEY (account_id) REFERENCES credit_account (id) ON DELETE CASCADE,
    CONSTRAINT credit_hold_user_id_fk FOREIGN KEY (user_id) REFERENCES "user" (id) ON DELETE CASCADE,
    CONSTRAINT credit_hold_amount_not_negative CHECK (amount >= 0),
    CONSTRAINT credit_hold_state_known CHECK (state IN ('live', 'lost'))
);
CREATE INDEX idx_credit_hold_live_account ON credit_hold (account_id) WHERE state = 'live';
CREATE INDEX idx_credit_hold_live_expiry ON credit_hold (expires_at) WHERE state = 'live';
CREATE INDEX idx_credit_hold_state ON credit_hold (state, lost_at);

CREATE TABLE credit_entry (
    id bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    account_id text NOT NULL,
    operation_id text NOT NULL,
    kind text NOT NULL,
    amount bigint NOT NULL,
    grant_balance_after bigint NOT NULL,
    balance_after bigint NOT NULL,
    cause text NOT NULL,
    message_id text,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT credit_entry_pk PRIMARY KEY (id),
    CONSTRAINT credit_entry_kind_known CHECK (kind IN ('grant', 'debit', 'expiry', 'revocation', 'debt_cleared'))
);
CREATE INDEX idx_credit_entry_account ON credit_entry (account_id, id);
CREATE INDEX idx_credit_entry_charge ON credit_entry (account_id, cause)
    WHERE kind = 'debit' AND message_id IS NULL;
CREATE INDEX idx_credit_entry_message ON credit_entry (message_id) WHERE message_id IS NOT NULL;
CREATE INDEX idx_credit_entry_operation ON credit_entry (operation_id);
-- the statement: what came in, ran out or was taken back, apart from the many charges of calls
CREATE INDEX idx_credit_entry_other ON credit_entry (account_id, id) WHERE kind <> 'debit';
