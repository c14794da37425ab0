"""Invitations: hashed tokens, declined and withdrawn ones, and what happened to each.

Revision: 0044
Revises: 0043
"""

from migrations.replacing import run_script

revision = "0044"
down_revision = "0043"
branch_labels = None
depends_on = None

# Invitations are few: they are changed here and now. Of several open ones to an address the newest stays open.
UP = """
ALTER TABLE org_invite
    ADD COLUMN declined_at timestamptz,
    ADD COLUMN withdrawn_at timestamptz,
    ADD COLUMN issue smallint NOT NULL DEFAULT 1;
UPDATE org_invite SET email = lower(email), token = encode(sha256(convert_to(token, 'UTF8')), 'hex');
UPDATE org_invite SET withdrawn_at = now()
WHERE accepted_at IS NULL AND id NOT IN (
    SELECT DISTINCT ON (org_id, email) id FROM org_invite
    WHERE accepted_at IS NULL ORDER BY org_id, email, created_at DESC, id
);
CREATE UNIQUE INDEX idx_org_invite_open ON org_invite (org_id, email)
    WHERE accepted_at IS NULL AND declined_at IS NULL AND withdrawn_at IS NULL;
CREATE INDEX idx_org_invite_list ON org_invite (org_id, created_at, id);
CREATE TABLE org_invite_event (
    id bigint GENERATED ALWAYS AS IDENTITY,
    invite_id text NOT NULL,
    kind text NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT org_invite_event_pk PRIMARY KEY (id),
    CONSTRAINT org_invite_event_invite_id_fk FOREIGN KEY (invite_id) REFERENCES org_invite (id) ON DELETE CASCADE,
    CONSTRAINT org_invite_event_kind_known CHECK (
        kind IN ('sent', 'opened', 'reminded', 'expired', 'accepted', 'declined', 'withdrawn')
    )
);
CREATE INDEX idx_org_invite_event_invite ON org_invite_event (invite_id, id);
"""

# The tokens stay hashed: links in e-mails end. Closed invitations did not exist before.
DOWN = """
DROP TABLE org_invite_event;
DROP INDEX idx_org_invite_list, idx_org_invite_open;
DELETE FROM org_invite WHERE declined_at IS NOT NULL OR withdrawn_at IS NOT NULL;
ALTER TABLE org_invite DROP COLUMN issue, DROP COLUMN withdrawn_at, DROP COLUMN declined_at;
"""


def upgrade() -> None:
    run_script(UP)


def downgrade() -> None:
    run_script(DOWN)
