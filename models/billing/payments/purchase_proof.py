"""Checks of `flask billing prove` for purchases and plans: each payment has its credits, and nothing else has any."""

from sqlalchemy import text

from models.core.db import db
from models.ledger import LedgerCheck, LedgerDifference
from models.ledger.ledger_proof import MAX_LISTED

_CHECKS = {
    "a paid purchase has its credits, less what was taken back": """
        SELECT p.id, p.credits - p.taken_back,
            CASE WHEN l.operation_id IS NULL THEN 'no grant' ELSE coalesce(j.total, 0)::text END
        FROM purchase p
        LEFT JOIN credit_ledger l ON l.operation_id = p.id
            AND coalesce(l.org_id, l.user_id) = coalesce(p.org_id, p.user_id)
        LEFT JOIN LATERAL (
            SELECT sum(e.amount) AS total,
                coalesce(bool_or(e.kind = 'revocation' AND e.cause = 'revocation'), false) AS revoked
            FROM credit_entry e
            WHERE e.operation_id = p.id AND e.kind IN ('grant', 'revocation', 'reinstatement')
        ) j ON true
        WHERE p.state = ANY (ARRAY['paid', 'partly_refunded', 'refunded', 'disputed', 'lost'])
            AND (l.operation_id IS NULL OR NOT j.revoked AND coalesce(j.total, 0) <> p.credits - p.taken_back)
    """,
    "a purchase that was not paid has no credits": """
        SELECT p.id, 'no grant', p.state FROM purchase p JOIN credit_ledger l ON l.operation_id = p.id
        WHERE p.state = ANY (ARRAY['created', 'pending', 'failed', 'cancelled'])
    """,
    "credits taken back match the money returned": """
        SELECT p.id,
            (2 * p.credits * least(p.amount_cents, p.refunded_cents + p.disputed_cents) + p.amount_cents)
                / (2 * p.amount_cents),
            p.taken_back
        FROM purchase p
        WHERE p.taken_back <> (2 * p.credits * least(p.amount_cents, p.refunded_cents + p.disputed_cents) + p.amount_cents)
            / (2 * p.amount_cents)
    """,
    "the price before tax pays for the credits": """
        SELECT p.id, p.credits, p.amount_cents - p.tax_cents FROM purchase p
        WHERE p.amount_cents - p.tax_cents < p.credits
    """,
    "tax was calculated": """
        SELECT p.id, 'none', p.tax_cents FROM purchase p WHERE p.tax_cents <> 0 AND p.tax_lines IS NULL
    """,
    "a paid invoice of a plan has its credits, less what was taken back": """
        SELECT i.id, i.credits - i.taken_back, CASE WHEN l.operation_id IS NULL THEN 'no grant' ELSE coalesce(j.total, 0)::text END
        FROM subscription_invoice i
        JOIN subscription s USING (stripe_subscription_id)
        LEFT JOIN credit_ledger l ON l.operation_id = i.operation_id AND l.user_id = s.user_id AND l.type = 'plan'
        LEFT JOIN LATERAL (
            SELECT sum(e.amount) AS total,
                coalesce(bool_or(e.kind = 'revocation' AND e.cause = 'revocation'), false) AS revoked
            FROM credit_entry e
            WHERE e.operation_id = i.operation_id AND e.kind IN ('grant', 'revocation', 'reinstatement')
        ) j ON true
        WHERE i.operation_id IS NOT NULL
            AND (l.operation_id IS NULL OR NOT j.revoked AND coalesce(j.total, 0) <> i.credits - i.taken_back)
    """,
    "included credits are of a paid invoice": """
        SELECT l.operation_id, 'an invoice', 'none' FROM credit_ledger l
        LEFT JOIN subscription_invoice i ON i.operation_id = l.operation_id
        WHERE l.operation_id LIKE 'sub:%' AND l.type = 'plan' AND i.id IS NULL
    """,
    "credits of a plan are taken back for money that went back": """
        SELECT i.id,
            (2 * i.credits * least(i.amount_cents, i.refunded_cents + i.disputed_cents) + i.amount_cents)
                / (2 * i.amount_cents),
            i.taken_back
        FROM subscription_invoice i
        WHERE i.amount_cents > 0 AND i.taken_back
            <> (2 * i.credits * least(i.amount_cents, i.refunded_cents + i.disputed_cents) + i.amount_cents)
                / (2 * i.amount_cents)
    """,
    "a purchase's sums are those of its refunds and disputes": """
        SELECT p.id, r.total || ' and ' || d.total, p.refunded_cents || ' and ' || p.disputed_cents
        FROM purchase p,
            LATERAL (
                SELECT coalesce(sum(amount_cents), 0) AS total FROM purchase_refund
                WHERE purchase_id = p.id AND status <> ALL (ARRAY['failed', 'canceled'])
            ) r,
            LATERAL (
                SELECT coalesce(sum(withdrawn_cents), 0) AS total FROM purchase_dispute WHERE purchase_id = p.id
            ) d
        WHERE r.total <> p.refunded_cents OR d.total <> p.disputed_cents
    """,
}


def prove_purchases() -> list[LedgerCheck]:
    """Compare all purchases and invoices of plans with the ledger, and with their refunds and disputes. Reads only the
    database; `reconcile` compares with Stripe."""
    return [_check(name, statement) for name, statement in _CHECKS.items()]


def _check(name: str, statement: str) -> LedgerCheck:
    with db.engine.connect() as connection, connection.begin():
        connection.execute(text("SET TRANSACTION READ ONLY"))
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        rows = connection.execute(
            text(
                f"SELECT *, count(*) OVER () AS differences FROM ({statement}) AS differing (subject, expected, found)"  # noqa: S608 - constants
                f" LIMIT {MAX_LISTED}"
            )
        ).all()
    differences = [LedgerDifference(str(row.subject), str(row.expected), str(row.found)) for row in rows]
    return LedgerCheck(name, differences, rows[0].differences if rows else 0)
