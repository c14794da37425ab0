"""Referrals: at most one per user and pair, rewards that wait for a purchase, and which users signed in on a device.

Nothing has written referrals before, so their constraints are checked at once. Devices are known from the sessions that are
left; from now on they are also known after a session has ended.

Revision: 0030
Revises: 0029
"""

from migrations.replacing import run_script

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None

UP = """
ALTER TABLE referral
    ADD COLUMN purchase_id text,
    ADD COLUMN held_until timestamptz,
    ADD COLUMN voided_at timestamptz,
    ADD COLUMN void_reason text,
    ADD CONSTRAINT referral_referred_id_unique UNIQUE (referred_id),
    ADD CONSTRAINT referral_of_another_user CHECK (referrer_id <> referred_id),
    ADD CONSTRAINT referral_held_for_a_purchase CHECK ((purchase_id IS NULL) = (held_until IS NULL)),
    ADD CONSTRAINT referral_void_earns_nothing CHECK (voided_at IS NULL OR (status = 'pending' AND credits = 0)),
    ADD CONSTRAINT referral_void_for_a_known_reason CHECK (
        (voided_at IS NULL) = (void_reason IS NULL) AND void_reason IN ('refund', 'dispute', 'self_referral')
    );
DROP INDEX idx_referral_referred;
CREATE UNIQUE INDEX idx_referral_pair
    ON referral (least(referrer_id, referred_id), greatest(referrer_id, referred_id));
CREATE INDEX idx_referral_referrer ON referral (referrer_id, created_at, referred_id);
CREATE INDEX idx_referral_held ON referral (held_until) WHERE status = 'pending' AND voided_at IS NULL;

CREATE TABLE fingerprint_user (
    fingerprint_id text NOT NULL,
    user_id text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT fingerprint_user_pk PRIMARY KEY (fingerprint_id, user_id),
    CONSTRAINT fingerprint_user_fingerprint_id_fk FOREIGN KEY (fingerprint_id) REFERENCES fingerprint (id)
        ON DELETE CASCADE,
    CONSTRAINT fingerprint_user_user_id_fk FOREIGN KEY (user_id) REFERENCES "user" (id) ON DELETE CASCADE
);
CREATE INDEX idx_fingerprint_user_user ON fingerprint_user (user_id);
INSERT INTO fingerprint_user (fingerprint_id, user_id, created_at)
SELECT fingerprint_id, "userId", min(created_at) AT TIME ZONE 'UTC' FROM session
WHERE fingerprint_id IS NOT NULL
GROUP BY 1, 2;
"""

DOWN = """
DROP TABLE fingerprint_user;

DROP INDEX idx_referral_pair, idx_referral_referrer, idx_referral_held;
CREATE INDEX idx_referral_referred ON referral (referred_id);
ALTER TABLE referral
    DROP CONSTRAINT referral_referred_id_unique,
    DROP CONSTRAINT referral_of_another_user,
    DROP CONSTRAINT referral_held_for_a_purchase,
    DROP CONSTRAINT referral_void_earns_nothing,
    DROP CONSTRAINT referral_void_for_a_known_reason,
    DROP COLUMN purchase_id,
    DROP COLUMN held_until,
    DROP COLUMN voided_at,
    DROP COLUMN void_reason;
"""


def upgrade() -> None:
    run_script(UP)


def downgrade() -> None:
    run_script(DOWN)
