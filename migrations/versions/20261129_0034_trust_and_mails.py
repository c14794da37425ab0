"""Limits of buying with declined cards, billing e-mails sent once, opting out of them, and low balance notices.

Revision: 0034
Revises: 0033
"""

from migrations.replacing import run_script

revision = "0034"
down_revision = "0033"
branch_labels = None
depends_on = None

UP = """
ALTER TABLE purchase ADD COLUMN client_address text;

CREATE TABLE card_decline (
    id text NOT NULL,
    purchase_id text NOT NULL,
    card_fingerprint text,
    client_address text,
    code text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT card_decline_pk PRIMARY KEY (id),
    CONSTRAINT card_decline_purchase_id_fk FOREIGN KEY (purchase_id) REFERENCES purchase (id) ON DELETE CASCADE
);
CREATE INDEX idx_card_decline_card ON card_decline (card_fingerprint, created_at);
CREATE INDEX idx_card_decline_address ON card_decline (client_address, created_at);
CREATE INDEX idx_card_decline_purchase ON card_decline (purchase_id);

CREATE TABLE buying_trust (
    account_id text NOT NULL,
    level int NOT NULL,
    set_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT buying_trust_pk PRIMARY KEY (account_id),
    CONSTRAINT buying_trust_account_id_fk FOREIGN KEY (account_id) REFERENCES credit_account (id) ON DELETE CASCADE
);

CREATE TABLE billing_mail (
    id text NOT NULL,
    kind text NOT NULL,
    user_id text NOT NULL,
    facts jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    queued_at timestamptz,
    skipped text,
    CONSTRAINT billing_mail_pk PRIMARY KEY (id),
    CONSTRAINT billing_mail_user_id_fk FOREIGN KEY (user_id) REFERENCES "user" (id) ON DELETE CASCADE
);
CREATE INDEX idx_billing_mail_user ON billing_mail (user_id);

CREATE TABLE mail_opt_out (
    user_id text NOT NULL,
    topic text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT mail_opt_out_pk PRIMARY KEY (user_id, topic),
    CONSTRAINT mail_opt_out_user_id_fk FOREIGN KEY (user_id) REFERENCES "user" (id) ON DELETE CASCADE
);

CREATE TABLE low_balance (
    account_id text NOT NULL,
    threshold bigint,
    notified_at timestamptz,
    CONSTRAINT low_balance_pk PRIMARY KEY (account_id),
    CONSTRAINT low_balance_account_id_fk FOREIGN KEY (account_id) REFERENCES credit_account (id) ON DELETE CASCADE,
    CONSTRAINT low_balance_threshold_not_negative CHECK (threshold >= 0)
);

CREATE TABLE balance_watch (
    id int NOT NULL,
    checked_until timestamptz NOT NULL,
    CONSTRAINT balance_watch_pk PRIMARY KEY (id),
    CONSTRAINT balance_watch_single_row CHECK (id = 1)
);
"""

DOWN = """
DROP TABLE balance_watch, low_balance, mail_opt_out, billing_mail, buying_trust, card_decline;

ALTER TABLE purchase DROP COLUMN client_address;
"""


def upgrade() -> None:
    run_script(UP)


def downgrade() -> None:
    run_script(DOWN)
