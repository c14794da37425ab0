"""The e-mails about a purchase, enqueued in the transaction of the change that they report."""

from dataclasses import dataclass
from datetime import UTC
from typing import Any

from sqlalchemy import select

from models import ledger
from models.billing.mails import balance_facts, credits_text, enqueue
from models.billing.payments.freezes import buying_freeze
from models.billing.payments.purchase import CLOSED_WELL, Purchase, PurchaseDispute, dollars
from models.core.db import db
from models.orgs import Org


@dataclass(frozen=True, slots=True)
class PurchaseSnapshot:
    """What a purchase was before a change, as far as its e-mails depend on it. Amounts are cents and credits."""

    paid: bool
    refunded_cents: int
    taken_back: int
    disputes: dict[str, str]
    """Status by id."""
    frozen: bool


def snapshot(purchase: Purchase) -> PurchaseSnapshot:
    """The state before a change: call it under the account's lock."""
    statuses = db.session.execute(
        select(PurchaseDispute.id, PurchaseDispute.status).where(PurchaseDispute.purchase_id == purchase.id)
    )
    return PurchaseSnapshot(
        purchase.paid,
        purchase.refunded_cents,
        purchase.taken_back,
        {row.id: row.status for row in statuses},
        buying_freeze(purchase.account) is not None,
    )


def enqueue_changes(purchase: Purchase, before: PurchaseSnapshot) -> None:
    """Enqueue the e-mails for a change of a purchase, in its transaction and after its disputes are stored. Flushes.

    Automatic top-ups have their own e-mails for charges; refunds and disputes are the same for all purchases.
    """
    if purchase.paid and not before.paid and purchase.kind != "auto_topup":
        enqueue("receipt", f"receipt/{purchase.id}", purchase.user_id, purchase_facts(purchase))
    # the version makes each change's id unique: the same total may be reached twice
    refunded = purchase.refunded_cents - before.refunded_cents
    credits = purchase.taken_back - before.taken_back
    if refunded:
        kind = "refund" if refunded > 0 else "refund_failed"
        facts = purchase_facts(purchase) | {
            "refunded": dollars(abs(refunded)),
            "refunded_total": dollars(purchase.refunded_cents),
            "credits_moved": credits_text(abs(credits)),
            **balance_facts(ledger.balance(purchase.account).net_balance),
        }
        enqueue(kind, f"{kind}/{purchase.id}/{purchase.version}", purchase.user_id, facts)
    for dispute in _disputes(purchase):
        earlier = before.disputes.get(dispute.id)
        facts = purchase_facts(purchase) | {
            "disputed": dollars(dispute.amount_cents),
            "withdrawn": dollars(dispute.withdrawn_cents) if dispute.withdrawn_cents else None,
            "taken_back_total": credits_text(purchase.taken_back),
            "credits_moved": credits_text(abs(credits)),
            "took_back": credits > 0,
            "gave_back": credits < 0,
            "lost": dispute.status == "lost",
            "inquiry": dispute.status.startswith("warning_"),
            **balance_facts(ledger.balance(purchase.account).net_balance),
        }
        if _closed(dispute.status):
            if earlier is None or not _closed(earlier):
                id = f"dispute-closed/{dispute.id}/{dispute.status}"
                enqueue("dispute_closed", id, purchase.user_id, facts)
        elif earlier is None:
            enqueue("dispute_opened", f"dispute-opened/{dispute.id}", purchase.user_id, facts)
    if not before.frozen and buying_freeze(purchase.account):
        id = f"buying-frozen/{purchase.id}/{purchase.version}"
        facts = purchase_facts(purchase) | {"lost": purchase.state == "lost"}
        enqueue("buying_frozen", id, ledger.owner_of(purchase.account), facts)


def purchase_facts(purchase: Purchase) -> dict[str, Any]:
    """The values of `emails/billing/_purchase`, as text."""
    paid_at = purchase.paid_at.astimezone(UTC) if purchase.paid_at else None
    return {
        "purchase_id": purchase.id,
        "credits": credits_text(purchase.credits),
        "amount": dollars(purchase.amount_cents),
        "taxes": [(name, dollars(cents)) for name, cents in purchase.taxes],
        "paid_on": f"{paid_at.day} {paid_at:%B %Y}" if paid_at else None,
        "card": purchase.card_name,
        **organisation_facts(purchase.org_id),
    }


def organisation_facts(org_id: str | None) -> dict[str, str | None]:
    """The name of an organisation, and its slug for links to its pages; None for a person's account."""
    org = db.session.get_one(Org, org_id) if org_id else None
    return {"organisation": org.name if org else None, "organisation_slug": org.slug if org else None}


def _disputes(purchase: Purchase) -> list[PurchaseDispute]:
    return list(
        db.session.scalars(
            select(PurchaseDispute)
            .where(PurchaseDispute.purchase_id == purchase.id)
            .order_by(PurchaseDispute.created_at, PurchaseDispute.id)
            .execution_options(populate_existing=True)
        )
    )


def _closed(status: str) -> bool:
    return status == "lost" or status in CLOSED_WELL
