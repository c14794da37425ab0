"""How a purchase changes: what Stripe says of its payment becomes its state, with the ledger's entries, in one transaction.

Whoever hears of a payment first (the answer of the API, a webhook, the reconciler) ends here with the whole state, never
with an event, so order and repetition cannot matter. Each change is one conditional UPDATE that names the version read
before Stripe was asked; the count of its rows decides.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert

from models import ledger
from models.accounts.users import User
from models.billing.payments import purchase_mails, trust
from models.billing.payments.billing_details import keep_collected_details
from models.billing.payments.customers import account_of_customer
from models.billing.payments.payment_state import KnownPayment, PaymentMismatch, PaymentState, fetch
from models.billing.payments.purchase import (
    CLOSED_WELL,
    CURRENCY,
    PAID_STATES,
    UNPAID_STATES,
    Purchase,
    PurchaseDispute,
    PurchaseRefund,
)
from models.billing.referral_program.referrals import referral_paid, referral_void
from models.core import jobs
from models.core.db import db
from models.core.db import now as utc_now
from models.core.errors import Conflict, NotFound
from models.core.jobs import transaction
from models.orgs import Org

TRIES = 6

Rows = list[tuple[type[Any], dict[str, Any]]]
"""Values by column, each with the class of its table."""

OnTransition = Callable[[Purchase, str, datetime], None]

_listeners: list[OnTransition] = []


def on_transition(listener: OnTransition) -> OnTransition:
    """Call the function with each purchase whose state has changed, the state before and the time, in the transaction that
    changes it and after its ledger entries."""
    _listeners.append(listener)
    return listener


Told = TypeVar("Told", PurchaseRefund, PurchaseDispute)


def sync(purchase_id: str, *, intent_id: str | None = None, session_id: str | None = None) -> Purchase:
    """Ask Stripe for the purchase's payment and bring the purchase to it. Takes transactions of its own; idempotent.

    `intent_id` and `session_id` are what somebody told of; they count only if Stripe says that they are this purchase's.
    A purchase that Stripe does not know of becomes cancelled: it is asked only when the request that began it is over.
    Raises NotFound, StripeError, PaymentMismatch, and Conflict when others change it faster.
    """
    for _ in range(TRIES):
        with transaction():
            purchase = purchase_by_id(purchase_id)
            known, version = _known(purchase, intent_id, session_id), purchase.version
        state = fetch(known)
        with transaction():
            settled = _forget(purchase_id, version) if state is None else settle(purchase_id, version, state)
            if settled:
                return purchase_by_id(purchase_id)
    raise Conflict("This purchase is changed by others just now. Try again.")


def settle(purchase_id: str, version: int, state: PaymentState, *, now: datetime | None = None) -> bool:
    """Bring a purchase to what Stripe says, with its entries, in the running transaction; False if it has changed since
    `version` was read, and nothing was done.

    The first time it is paid its credits are granted, under its id. Refunds and disputes take back their part of them:
    `credits * min(amount, refunded + withdrawn) / amount`, rounded half up, so that a full refund takes all. Takes the
    account's lock first. Flushes. Raises NotFound, PaymentMismatch.
    """
    now = now or utc_now()
    purchase = purchase_by_id(purchase_id)
    if purchase.version != version:
        return False
    _check(purchase, state)
    ledger.lock_account(purchase.account)
    before = purchase.state
    trust.note_decline(purchase, state, now=now)
    values = _values(purchase, state, now)
    rows = _rows(purchase.id, state)
    fresh = _fresh(purchase.id, rows)
    changes = {name: value for name, value in values.items() if getattr(purchase, name) != value}
    if not changes and not fresh:
        return True
    mailed = purchase_mails.snapshot(purchase)
    if not _change(purchase, version, changes, now):
        return False
    if purchase.paid and before not in PAID_STATES:
        ledger.grant(
            purchase.account,
            purchase.credits,
            "organization" if purchase.org_id else "purchase",
            operation_id=purchase.id,
            description=_description(purchase),
            buyer_id=purchase.user_id,
            now=now,
        )
        referral_paid(purchase.user_id, purchase.id, now=now)
        if "billing" in changes:
            keep_collected_details(purchase.account, values["billing"])
    if purchase.refunded_cents or purchase.disputed_cents:
        referral_void(
            purchase.user_id, purchase.id, "dispute" if purchase.disputed_cents else "refund", now=now
        )
    if "taken_back" in changes:
        cause = "dispute" if "disputed_cents" in changes else "refund"
        ledger.take_back(purchase.id, purchase.taken_back, cause, now=now)
    _keep_told(rows)
    if purchase.paid and purchase.tax_calculation_id and (fresh or before not in PAID_STATES):
        jobs.enqueue(jobs.record_tax, purchase_id=purchase.id)
    if fresh and state.disputes and not purchase.org_id:
        jobs.enqueue(jobs.withdraw_upgrade, user_id=purchase.user_id)
    purchase_mails.enqueue_changes(purchase, mailed)
    _announce(purchase, before, now)
    return True


def purchase_by_id(purchase_id: str) -> Purchase:
    """A purchase as it is in the database now, for who has no account to look in. Raises NotFound."""
    found = db.session.get(Purchase, purchase_id, populate_existing=True)
    if found is None:
        raise NotFound("There is no such purchase.")
    return found


def purchase_of_payment(intent_id: str | None, charge_id: str | None = None) -> str | None:
    """The id of the purchase that was paid by this intent or charge, if that is known already."""
    for column, value in (
        (Purchase.stripe_payment_intent_id, intent_id),
        (Purchase.stripe_charge_id, charge_id),
    ):
        if value and (found := db.session.scalars(select(Purchase.id).where(column == value)).one_or_none()):
            return found
    return None


def note_attempt(purchase_id: str, version: int, **ids: Any) -> bool:
    """Write down what Stripe answered before the payment ended (ids, failures, the state `pending`), in the running
    transaction; False if the purchase has changed since `version` was read."""
    purchase, now = purchase_by_id(purchase_id), utc_now()
    before = purchase.state
    if not _change(purchase, version, ids, now):
        return False
    _announce(purchase, before, now)
    return True


def recover(state: PaymentState) -> Purchase:
    """A purchase anew from its payment, where its row is lost, as after a restored backup. Flushes; `settle` it then.

    Raises PaymentMismatch unless the payment is one of ours: metadata, customer, currency and amount must fit.
    """
    facts = state.metadata
    operation, buyer = state.operation_id or "", facts.get("userId", "")
    account = account_of_customer(state.customer) if state.customer else None
    org = facts.get("organizationId")
    if account is None or account.id != (org or buyer) or db.session.get(User, buyer) is None:
        raise PaymentMismatch(f"{operation}: the customer is none of ours, or another account's")
    if org and db.session.get(Org, org) is None:
        raise PaymentMismatch(f"{operation}: there is no such organisation")
    if not operation.startswith(
        (f"buy-{buyer}-", f"auto-topup-{buyer}-", f"org-{org}-", f"org-auto-topup-{org}-")
    ):
        raise PaymentMismatch(f"{operation}: not the name of an operation of this account")
    credits = facts.get("credits", "")
    net = facts.get("netCents", str(state.amount))
    numbers = all(each.isascii() and each.isdigit() for each in (credits, net))
    if not numbers or state.amount is None or not 0 < int(credits) <= int(net) <= state.amount:
        raise PaymentMismatch(f"{operation}: {credits} credits for {state.amount} cents, {net} without tax")
    taxed = "netCents" in facts
    purchase = Purchase(
        id=operation,
        user_id=buyer,
        org_id=org,
        kind="auto_topup" if operation.startswith(("auto-topup-", "org-auto-topup-")) else "direct",
        credits=int(credits),
        amount_cents=state.amount,
        tax_cents=state.amount - int(net),
        tax_lines=[] if taxed else None,
        tax_calculation_id=facts.get("taxCalculation"),
        currency=CURRENCY,
        stripe_customer_id=state.customer,
    )
    db.session.add(purchase)
    db.session.flush()
    return purchase


def _known(purchase: Purchase, intent_id: str | None, session_id: str | None) -> KnownPayment:
    ids = dict.fromkeys(id for id in (purchase.stripe_payment_intent_id, intent_id) if id)
    return KnownPayment(
        purchase.id,
        purchase.stripe_customer_id,
        purchase.created_at,
        tuple(ids),
        purchase.stripe_checkout_session_id or session_id,
    )


def _check(purchase: Purchase, state: PaymentState) -> None:
    """Raises PaymentMismatch unless the payment is this purchase's, to the cent."""
    for name, told, expected in (
        ("operation", state.operation_id, purchase.id),
        ("customer", state.customer, purchase.stripe_customer_id),
        ("currency", state.currency, purchase.currency),
        ("amount", state.amount, _due(purchase, state)),
    ):
        if told != expected:
            raise PaymentMismatch(f"{purchase.id}: its {name} is {expected}, and Stripe says {told}")


def _due(purchase: Purchase, state: PaymentState) -> int:
    """What must be paid, with tax: Checkout's own tax, else the one that was calculated."""
    if not state.on_checkout:
        return purchase.amount_cents
    if state.tax < 0 or (state.tax and state.tax_lines is None):
        raise PaymentMismatch(f"{purchase.id}: Stripe says {state.tax} cents of tax")
    return purchase.net_cents + state.tax


def _values(purchase: Purchase, state: PaymentState, now: datetime) -> dict[str, Any]:
    """The columns that the payment decides."""
    paid = state.outcome == "paid"
    if purchase.paid and not paid:
        raise PaymentMismatch(f"{purchase.id}: it was paid, and Stripe says {state.outcome}")
    values: dict[str, Any] = {
        "state": _reached(state) if paid else state.outcome,
        "stripe_payment_intent_id": state.intent_id or purchase.stripe_payment_intent_id,
        "stripe_checkout_session_id": state.session_id or purchase.stripe_checkout_session_id,
        "stripe_charge_id": state.charge_id if paid else purchase.stripe_charge_id,
        "payment_method_type": state.method_type or purchase.payment_method_type,
        "card_brand": state.card_brand or purchase.card_brand,
        "card_last4": state.card_last4 or purchase.card_last4,
        "card_fingerprint": state.card_fingerprint or purchase.card_fingerprint,
        "failure_code": None if paid else state.failure_code or purchase.failure_code,
        "failure_message": None if paid else state.failure_message or purchase.failure_message,
    }
    amount = _due(purchase, state)
    if state.on_checkout:
        values |= {
            "amount_cents": amount,
            "tax_cents": state.tax,
            "tax_lines": state.tax_lines,
            "tax_calculation_id": None,
        }
    if paid:
        gone = min(amount, state.refunded + state.withdrawn)
        values |= {
            "billing": purchase.billing or state.billing,
            "paid_at": purchase.paid_at or now,
            "refunded_cents": state.refunded,
            "disputed_cents": state.withdrawn,
            "taken_back": (2 * purchase.credits * gone + amount) // (2 * amount),
        }
    return values


def _reached(state: PaymentState) -> str:
    statuses = {dispute.status for dispute in state.disputes}
    if "lost" in statuses:
        return "lost"
    if statuses - {"lost", *CLOSED_WELL}:
        return "disputed"
    if state.refunded:
        return "refunded" if state.refunded >= (state.amount or 0) else "partly_refunded"
    return "paid"


def _change(purchase: Purchase, version: int, changes: dict[str, Any], now: datetime) -> bool:
    changed = db.session.execute(
        update(Purchase)
        .where(Purchase.id == purchase.id, Purchase.version == version)
        .values(**changes, version=version + 1, updated_at=now)
        .returning(Purchase.id)
        .execution_options(synchronize_session=False)
    ).all()
    db.session.refresh(purchase)
    return bool(changed)


def _forget(purchase_id: str, version: int) -> bool:
    """Stripe knows no payment of the purchase."""
    purchase = purchase_by_id(purchase_id)
    if purchase.paid:
        raise PaymentMismatch(f"{purchase_id}: it was paid, and Stripe knows no such payment")
    if purchase.state in UNPAID_STATES:
        return True
    before, now = purchase.state, utc_now()
    if not _change(purchase, version, {"state": "cancelled"}, now):
        return False
    _announce(purchase, before, now)
    return True


def _announce(purchase: Purchase, before: str, now: datetime) -> None:
    if purchase.state != before:
        for listener in _listeners:
            listener(purchase, before, now)


def _description(purchase: Purchase) -> str:
    """What the owner reads beside the grant (contract 2.11, 3.7)."""
    words = {
        "direct": f"Direct purchase of {purchase.credits} credits",
        "checkout": f"Purchase of {purchase.credits} credits",
        "auto_topup": f"Auto top-up of {purchase.credits} credits",
    }
    return words[purchase.kind]


def _rows(purchase_id: str, state: PaymentState) -> Rows:
    refunds: Rows = [
        (
            PurchaseRefund,
            {
                "id": refund.id,
                "purchase_id": purchase_id,
                "amount_cents": refund.amount,
                "status": refund.status,
                "reason": refund.reason,
                "created_at": refund.created_at,
            },
        )
        for refund in state.refunds
    ]
    return refunds + [
        (
            PurchaseDispute,
            {
                "id": dispute.id,
                "purchase_id": purchase_id,
                "amount_cents": dispute.amount,
                "withdrawn_cents": dispute.withdrawn,
                "status": dispute.status,
                "reason": dispute.reason,
                "created_at": dispute.created_at,
            },
        )
        for dispute in state.disputes
    ]


def _fresh(purchase_id: str, told: Rows) -> bool:
    """Whether a refund or a dispute is new, or has changed."""
    kept: dict[str, Any] = {}
    for table in (PurchaseRefund, PurchaseDispute):
        rows: Sequence[Any] = db.session.scalars(
            select(table).where(table.purchase_id == purchase_id).execution_options(populate_existing=True)
        ).all()
        kept |= {row.id: row for row in rows}
    return any(
        values["id"] not in kept
        or any(getattr(kept[values["id"]], name) != value for name, value in values.items())
        for _, values in told
    )


def _keep_told(told: Rows) -> None:
    for table, values in told:
        db.session.execute(
            insert(table)
            .values(values)
            .on_conflict_do_update(
                index_elements=["id"],
                set_={name: value for name, value in values.items() if name not in ("id", "purchase_id")},
            )
        )
