"""The e-mails of automatic top-up: each is enqueued in the transaction of its cause, once."""

from datetime import datetime
from typing import Any

from models import ledger
from models.billing.mails import balance_facts, enqueue
from models.billing.payments.purchase import Purchase, dollars
from models.billing.payments.purchase_mails import organisation_facts, purchase_facts
from models.billing.payments.tax import tax_enabled
from models.core.db import now as utc_now
from models.core.mail import moment_text
from models.ledger import Account


def enqueue_charged(purchase: Purchase) -> None:
    """A top-up was paid and its credits were granted. Flushes."""
    balance = balance_facts(ledger.balance(purchase.account).net_balance)
    facts = _attempt_facts(purchase) | balance
    enqueue("topup_charged", f"topup-charged/{purchase.id}", ledger.owner_of(purchase.account), facts)


def enqueue_failed(purchase: Purchase, retry_at: datetime | None) -> None:
    """A top-up was declined. `retry_at` is the time of the next attempt; None: none before another card is saved. Flushes."""
    kind = "topup_failed" if retry_at else "topup_card_needed"
    facts = _attempt_facts(purchase) | {
        "reason": purchase.failure_message or "The payment was declined.",
        "retry_at": moment_text(retry_at) if retry_at else None,
    }
    enqueue(kind, f"topup-failed/{purchase.id}/{purchase.version}", ledger.owner_of(purchase.account), facts)


def enqueue_confirmation(purchase: Purchase, expires_at: datetime) -> None:
    """The cardholder must confirm a top-up with the bank until `expires_at`. The link is made when the e-mail is rendered
    (`confirmations`). Flushes."""
    facts = _attempt_facts(purchase) | {
        "expires_at": expires_at.isoformat(),
        "confirm_until": moment_text(expires_at),
    }
    enqueue(
        "topup_confirmation", f"topup-confirmation/{purchase.id}", ledger.owner_of(purchase.account), facts
    )


def enqueue_cap_reached(account: Account, cap_cents: int, charged_cents: int, retry_at: datetime) -> None:
    """The monthly limit leaves no room for another top-up: one e-mail per month and limit. Flushes."""
    facts = {
        "cap": dollars(cap_cents),
        "charged": f"{dollars(charged_cents)} before tax" if tax_enabled() else dollars(charged_cents),
        "retry_at": moment_text(retry_at),
        **organisation_facts(account.org_id),
    }
    id = f"topup-cap/{account.id}/{retry_at:%Y-%m-%d}/{cap_cents}"
    enqueue("topup_cap_reached", id, ledger.owner_of(account), facts)


def enqueue_switched_off(account: Account) -> None:
    """Automatic top-up switched itself off, because no payment method can be charged. Call it once per switch. Flushes."""
    facts = organisation_facts(account.org_id)
    id = f"topup-off/{account.id}/{utc_now():%Y-%m-%dT%H:%M:%S.%f}"
    enqueue("topup_off", id, ledger.owner_of(account), facts)


def _attempt_facts(purchase: Purchase) -> dict[str, Any]:
    return purchase_facts(purchase) | {"method": _method(purchase)}


def _method(purchase: Purchase) -> str:
    if purchase.card_name:
        return purchase.card_name
    return "Link" if purchase.payment_method_type == "link" else "your saved card"
