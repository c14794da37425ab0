"""Budgets of accounts, teams, members, keys, agents and runs, and envelopes of runs. A hold checks all of them.

Of holds that the release before wrote, only budgets of the account and the member know.

Revision: 0048
Revises: 0047
"""

from migrations.replacing import replace_function, restore_function, run_script

revision = "0048"
down_revision = "0047"
branch_labels = None
depends_on = None

FUNCTIONS = (
    "ledger/credit_account_lock",
    "ledger/budget_agent",
    "ledger/budget_window",
    "ledger/budget_resets",
    "ledger/run_budget_of",
    "ledger/run_budget_left",
    "ledger/run_budget_open",
    "ledger/run_budget_close",
    "ledger/budget_limits",
    "ledger/budget_subject_name",
    "ledger/budget_refusal",
    "ledger/budget_admit",
    "ledger/budget_free",
    "ledger/budget_settle",
    "ledger/budget_spent",
    "ledger/budget_fill",
    "ledger/budget_follow_org",
    "ledger/credit_hold_grow",
    "ledger/gateway_admit",
    "ledger/gateway_admit_many",
    "ledger/gateway_settle",
    "ledger/gateway_settle_many",
)

UP = """
ALTER TABLE credit_account
    ADD COLUMN time_zone text NOT NULL DEFAULT 'UTC',
    -- fails for a name that PostgreSQL does not know
    ADD CONSTRAINT credit_account_time_zone_known CHECK (('2000-01-01 00:00:00+00'::timestamptz AT TIME ZONE time_zone) IS NOT NULL);
UPDATE credit_account a SET time_zone = o.time_zone FROM org o WHERE o.id = a.org_id AND o.time_zone <> 'UTC';

ALTER TABLE credit_hold
    ADD COLUMN agent_id text,
    ADD COLUMN root_run_id text,
    ADD COLUMN envelope_run_id text,
    DROP CONSTRAINT credit_hold_funding_known,
    ADD CONSTRAINT credit_hold_funding_known CHECK (funding IN ('any', 'plan', 'credits', 'byok'));
ALTER TABLE agent_run ADD COLUMN envelope_run_id text;
ALTER TYPE gateway_ask ADD ATTRIBUTE byok boolean, ADD ATTRIBUTE run_budget bigint;

CREATE TABLE budget (
    id text NOT NULL DEFAULT gen_random_uuid()::text,
    account_id text NOT NULL,
    level text NOT NULL,
    subject text,
    period text NOT NULL,
    limit_credits bigint NOT NULL,
    warn_percent int NOT NULL DEFAULT 80,
    hard boolean NOT NULL DEFAULT true,
    count_byok boolean NOT NULL DEFAULT false,
    created_by text,
    created_at timestamptz NOT NULL DEFAULT now(),
    counted_since timestamptz NOT NULL DEFAULT now(),
    ended_at timestamptz,
    CONSTRAINT budget_pk PRIMARY KEY (id),
    CONSTRAINT budget_account_id_fk FOREIGN KEY (account_id) REFERENCES credit_account (id) ON DELETE CASCADE,
    CONSTRAINT budget_created_by_fk FOREIGN KEY (created_by) REFERENCES "user" (id) ON DELETE SET NULL,
    CONSTRAINT budget_level_known CHECK (level IN ('account', 'team', 'member', 'key', 'agent', 'run')),
    CONSTRAINT budget_period_known CHECK (period IN ('hour', 'day', 'week', 'month', 'total')),
    CONSTRAINT budget_account_has_no_subject CHECK (level <> 'account' OR subject IS NULL),
    CONSTRAINT budget_limit_credits_not_negative CHECK (limit_credits >= 0),
    CONSTRAINT budget_warn_percent_known CHECK (warn_percent BETWEEN 1 AND 100)
);
CREATE INDEX idx_budget_account ON budget (account_id) WHERE ended_at IS NULL;

-- settlements update rows in place
CREATE TABLE budget_spend (
    budget_id text NOT NULL,
    subject text NOT NULL,
    window_start timestamptz NOT NULL,
    spent bigint NOT NULL,
    warned_at timestamptz,
    stopped_at timestamptz,
    CONSTRAINT budget_spend_pk PRIMARY KEY (budget_id, subject, window_start),
    CONSTRAINT budget_spend_budget_id_fk FOREIGN KEY (budget_id) REFERENCES budget (id) ON DELETE CASCADE
) WITH (fillfactor = 50);

CREATE TABLE budget_request (
    id text NOT NULL DEFAULT gen_random_uuid()::text,
    budget_id text NOT NULL,
    subject text NOT NULL,
    user_id text NOT NULL,
    amount bigint NOT NULL,
    reason text NOT NULL DEFAULT '',
    run_id text,
    evidence jsonb NOT NULL DEFAULT '{}'::jsonb,
    state text NOT NULL DEFAULT 'open',
    decided_by text,
    decided_at timestamptz,
    answer text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT budget_request_pk PRIMARY KEY (id),
    CONSTRAINT budget_request_budget_id_fk FOREIGN KEY (budget_id) REFERENCES budget (id) ON DELETE CASCADE,
    CONSTRAINT budget_request_user_id_fk FOREIGN KEY (user_id) REFERENCES "user" (id) ON DELETE CASCADE,
    CONSTRAINT budget_request_decided_by_fk FOREIGN KEY (decided_by) REFERENCES "user" (id) ON DELETE SET NULL,
    CONSTRAINT budget_request_amount_positive CHECK (amount > 0),
    CONSTRAINT budget_request_state_known CHECK (state IN ('open', 'approved', 'declined', 'withdrawn'))
);
CREATE UNIQUE INDEX idx_budget_request_open ON budget_request (budget_id, subject, user_id) WHERE state = 'open';
CREATE INDEX idx_budget_request_budget ON budget_request (budget_id, created_at);

CREATE TABLE budget_raise (
    id text NOT NULL DEFAULT gen_random_uuid()::text,
    budget_id text NOT NULL,
    subject text NOT NULL DEFAULT '',
    amount bigint NOT NULL,
    run_id text,
    starts_at timestamptz NOT NULL,
    ends_at timestamptz NOT NULL,
    request_id text,
    created_by text,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT budget_raise_pk PRIMARY KEY (id),
    CONSTRAINT budget_raise_budget_id_fk FOREIGN KEY (budget_id) REFERENCES budget (id) ON DELETE CASCADE,
    CONSTRAINT budget_raise_request_id_fk FOREIGN KEY (request_id) REFERENCES budget_request (id) ON DELETE SET NULL,
    CONSTRAINT budget_raise_created_by_fk FOREIGN KEY (created_by) REFERENCES "user" (id) ON DELETE SET NULL,
    CONSTRAINT budget_raise_amount_positive CHECK (amount > 0)
);
CREATE INDEX idx_budget_raise_budget ON budget_raise (budget_id, ends_at);

CREATE TABLE run_budget (
    run_id text NOT NULL,
    parent_run_id text,
    limit_credits bigint NOT NULL,
    spent bigint NOT NULL DEFAULT 0,
    reserved bigint NOT NULL DEFAULT 0,
    source text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    closed_at timestamptz,
    CONSTRAINT run_budget_pk PRIMARY KEY (run_id),
    CONSTRAINT run_budget_run_id_fk FOREIGN KEY (run_id) REFERENCES agent_run (id) ON DELETE CASCADE,
    CONSTRAINT run_budget_parent_run_id_fk FOREIGN KEY (parent_run_id) REFERENCES run_budget (run_id) ON DELETE SET NULL,
    CONSTRAINT run_budget_limit_credits_not_negative CHECK (limit_credits >= 0),
    CONSTRAINT run_budget_reserved_not_negative CHECK (reserved >= 0),
    CONSTRAINT run_budget_source_known CHECK (source IN ('start', 'call', 'agent'))
);
CREATE INDEX idx_run_budget_parent ON run_budget (parent_run_id);
CREATE INDEX idx_credit_hold_envelope ON credit_hold (envelope_run_id) WHERE envelope_run_id IS NOT NULL;
"""
LIMITS = """
UPDATE org SET credit_limit = credit_limit WHERE credit_limit IS NOT NULL;
"""
DOWN = """
DROP TABLE run_budget, budget_raise, budget_request, budget_spend, budget;
ALTER TYPE gateway_ask DROP ATTRIBUTE byok, DROP ATTRIBUTE run_budget;
ALTER TABLE agent_run DROP COLUMN envelope_run_id;
DELETE FROM credit_hold WHERE funding = 'byok';
ALTER TABLE credit_hold
    DROP COLUMN agent_id,
    DROP COLUMN root_run_id,
    DROP COLUMN envelope_run_id,
    DROP CONSTRAINT credit_hold_funding_known,
    ADD CONSTRAINT credit_hold_funding_known CHECK (funding IN ('any', 'plan', 'credits'));
ALTER TABLE credit_account DROP COLUMN time_zone;
"""


def upgrade() -> None:
    run_script(UP)
    for name in FUNCTIONS:
        replace_function(name, revision)
    run_script(LIMITS)


def downgrade() -> None:
    for name in reversed(FUNCTIONS):
        restore_function(name, revision)
    run_script(DOWN)
