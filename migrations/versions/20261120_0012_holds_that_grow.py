"""The hold of a call in flight can grow, when its answer becomes longer than was held for.

Revision: 0012
Revises: 0011
"""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
-- Let a call in flight hold p_wanted credits, or as many as are free beside the others' holds. Returns what it holds
-- then; NULL, and nothing is changed, when that would be less than p_needed, or the call holds nothing. Never less than
-- it held before.
CREATE FUNCTION credit_hold_grow(p_request text, p_needed bigint, p_wanted bigint, p_now timestamptz) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    v_account text;
    v_free bigint;
    v_amount bigint;
BEGIN
    SELECT h.account_id INTO v_account FROM credit_hold h WHERE h.request_id = p_request;
    PERFORM FROM credit_account a WHERE a.id = v_account FOR UPDATE;
    v_free := credit_net(v_account, p_now) - (
        SELECT coalesce(sum(h.amount), 0) FROM credit_hold h
        WHERE h.account_id = v_account AND h.state = 'live' AND h.expires_at > p_now AND h.request_id <> p_request
    );
    UPDATE credit_hold h SET amount = greatest(h.amount, least(p_wanted, v_free))
    WHERE h.request_id = p_request AND greatest(h.amount, v_free) >= p_needed
    RETURNING h.amount INTO v_amount;
    RETURN v_amount;
END $$
        """
    )


def downgrade() -> None:
    op.execute("DROP FUNCTION credit_hold_grow")
