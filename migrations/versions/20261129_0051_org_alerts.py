"""Alerts of organisations with their settings, and outgoing webhooks with the log of deliveries.

Revision: 0051
Revises: 0050
"""

from migrations.replacing import run_script

revision = "0051"
down_revision = "0050"
branch_labels = None
depends_on = None

UP = """
CREATE TABLE org_alert (
    id text NOT NULL DEFAULT (gen_random_uuid())::text,
    org_id text NOT NULL,
    kind text NOT NULL,
    key text NOT NULL,
    severity text NOT NULL,
    title text NOT NULL,
    message text NOT NULL,
    facts jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    until timestamptz,
    resolved_at timestamptz,
    sent_at timestamptz,
    CONSTRAINT org_alert_pk PRIMARY KEY (id),
    CONSTRAINT org_alert_occurrence_key UNIQUE (org_id, kind, key),
    CONSTRAINT org_alert_severity_known CHECK (severity IN ('info', 'warning', 'critical')),
    CONSTRAINT org_alert_org_id_fk FOREIGN KEY (org_id) REFERENCES org (id) ON DELETE CASCADE
);
CREATE INDEX idx_org_alert_latest ON org_alert (org_id, created_at, id);
CREATE INDEX idx_org_alert_open ON org_alert (org_id, kind) WHERE resolved_at IS NULL;

CREATE TABLE org_alert_dismissal (
    alert_id text NOT NULL,
    user_id text NOT NULL,
    dismissed_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT org_alert_dismissal_pk PRIMARY KEY (alert_id, user_id),
    CONSTRAINT org_alert_dismissal_alert_id_fk FOREIGN KEY (alert_id) REFERENCES org_alert (id) ON DELETE CASCADE,
    CONSTRAINT org_alert_dismissal_user_id_fk FOREIGN KEY (user_id) REFERENCES "user" (id) ON DELETE CASCADE
);
CREATE INDEX idx_org_alert_dismissal_user ON org_alert_dismissal (user_id);

CREATE TABLE org_alert_settings (
    org_id text NOT NULL,
    low_balance bigint NOT NULL DEFAULT 500,
    critical_balance bigint NOT NULL DEFAULT 100,
    high_usage bigint NOT NULL DEFAULT 5000,
    limit_percent int NOT NULL DEFAULT 90,
    unusual_factor int NOT NULL DEFAULT 4,
    unusual_minimum bigint NOT NULL DEFAULT 500,
    muted text[] NOT NULL DEFAULT '{}',
    mail_roles text[] NOT NULL DEFAULT '{owner,admin,billing}',
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT org_alert_settings_pk PRIMARY KEY (org_id),
    CONSTRAINT org_alert_settings_org_id_fk FOREIGN KEY (org_id) REFERENCES org (id) ON DELETE CASCADE,
    CONSTRAINT org_alert_settings_not_negative
        CHECK (low_balance >= 0 AND critical_balance >= 0 AND high_usage >= 0 AND unusual_minimum >= 0),
    CONSTRAINT org_alert_settings_limit_percent_range CHECK (limit_percent >= 1 AND limit_percent <= 100),
    CONSTRAINT org_alert_settings_unusual_factor_range CHECK (unusual_factor >= 2 AND unusual_factor <= 100)
);

CREATE TABLE org_webhook (
    id text NOT NULL DEFAULT (gen_random_uuid())::text,
    org_id text NOT NULL,
    url text NOT NULL,
    sealed_secret text NOT NULL,
    sealed_old_secret text,
    rotated_at timestamptz,
    failing_since timestamptz,
    disabled_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT org_webhook_pk PRIMARY KEY (id),
    CONSTRAINT org_webhook_org_id_fk FOREIGN KEY (org_id) REFERENCES org (id) ON DELETE CASCADE
);
CREATE INDEX idx_org_webhook_org ON org_webhook (org_id);

CREATE TABLE org_webhook_delivery (
    id text NOT NULL DEFAULT (gen_random_uuid())::text,
    webhook_id text NOT NULL,
    event text NOT NULL,
    payload jsonb NOT NULL,
    state text NOT NULL DEFAULT 'waiting',
    attempts int NOT NULL DEFAULT 0,
    status int,
    error text,
    created_at timestamptz NOT NULL DEFAULT now(),
    attempted_at timestamptz,
    next_attempt_at timestamptz,
    CONSTRAINT org_webhook_delivery_pk PRIMARY KEY (id),
    CONSTRAINT org_webhook_delivery_state_known CHECK (state IN ('waiting', 'delivered', 'failed')),
    CONSTRAINT org_webhook_delivery_webhook_id_fk
        FOREIGN KEY (webhook_id) REFERENCES org_webhook (id) ON DELETE CASCADE
);
CREATE INDEX idx_org_webhook_delivery_log ON org_webhook_delivery (webhook_id, created_at, id);
CREATE INDEX idx_org_webhook_delivery_created ON org_webhook_delivery (created_at);
"""

DOWN = """
DROP TABLE org_webhook_delivery, org_webhook, org_alert_settings, org_alert_dismissal, org_alert;
"""


def upgrade() -> None:
    run_script(UP)


def downgrade() -> None:
    run_script(DOWN)
