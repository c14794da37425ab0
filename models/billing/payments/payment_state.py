"""The state of one payment, fetched from Stripe. Events only name the payment; its state is always fetched.

This module does not use the database.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from models.billing import stripe_api
from models.billing.payments.billing_details import ADDRESS
from models.billing.payments.tax import TaxLine, session_lines
from models.billing.stripe_api import StripeError, id_of, missing, plain

Outcome = Literal["pending", "paid", "failed", "cancelled"]

LISTED_BEFORE = timedelta(minutes=5)
"""Clocks differ: a payment may appear to be this much older than its purchase."""


class PaymentMismatch(Exception):
    """A payment does not match its purchase, so no credits may be granted. The message is for the operator."""


@dataclass(frozen=True, slots=True)
class RefundState:
    """One refund; cents."""

    id: str
    amount: int
    status: str
    reason: str | None
    created_at: datetime

    @property
    def counts(self) -> bool:
        """Whether it returns money: it is pending or succeeded."""
        return self.status not in ("failed", "canceled")


@dataclass(frozen=True, slots=True)
class DisputeState:
    """One dispute; cents. `withdrawn` is what the bank took and did not reinstate."""

    id: str
    amount: int
    withdrawn: int
    status: str
    reason: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class PaymentState:
    """A payment as fetched from Stripe; amounts are cents."""

    outcome: Outcome
    operation_id: str | None
    customer: str | None
    amount: int | None
    currency: str | None
    intent_id: str | None = None
    session_id: str | None = None
    charge_id: str | None = None
    method_type: str | None = None
    card_brand: str | None = None
    card_last4: str | None = None
    card_fingerprint: str | None = None
    failure_code: str | None = None
    failure_message: str | None = None
    refunds: tuple[RefundState, ...] = ()
    disputes: tuple[DisputeState, ...] = ()
    billing: dict[str, Any] | None = None
    """Billing details that Checkout collected, as `Purchase.billing`."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    on_checkout: bool = False
    """Whether a Checkout Session made the payment: then `tax` and `tax_lines` are the session's."""
    tax: int = 0
    tax_lines: list[TaxLine] | None = None
    """As `Purchase.tax_lines`."""

    @property
    def refunded(self) -> int:
        """Cents refunded."""
        return sum(refund.amount for refund in self.refunds if refund.counts)

    @property
    def withdrawn(self) -> int:
        """Cents that disputes withdrew and did not reinstate."""
        return sum(dispute.withdrawn for dispute in self.disputes)


@dataclass(frozen=True, slots=True)
class KnownPayment:
    """What is known of a payment to fetch: its operation, and the ids from the purchase or an event."""

    operation_id: str
    customer: str
    created_at: datetime
    intent_ids: tuple[str, ...] = ()
    session_id: str | None = None


def fetch(known: KnownPayment) -> PaymentState | None:
    """The payment of an operation with its refunds and disputes; None if Stripe knows none.

    Without an id, the customer's payments since the operation began are searched: the process that created the payment may
    have stopped before it stored the id. Raises StripeError, and PaymentMismatch if Stripe charged twice.
    """
    with stripe_api.api_client():
        session = _session(known.session_id) if known.session_id else None
        intents = [intent for id in known.intent_ids if (intent := _intent(id))]
        if session is None and not any(intent["status"] == "succeeded" for intent in intents):
            session = _listed_session(known)
            intents = intents or list(_listed_intents(known))
        of_session = _intent_of(session)
        if of_session is not None and all(each["id"] != of_session["id"] for each in intents):
            intents.insert(0, of_session)
        if session is None and not intents:
            return None
        paid = [intent for intent in intents if intent["status"] == "succeeded"]
        if len(paid) > 1:
            raise PaymentMismatch(
                f"charged twice for {known.operation_id}: {', '.join(intent['id'] for intent in paid)}"
            )
        chosen = paid[0] if paid else of_session or (None if session else intents[-1])
        if session is None and chosen and (chosen.get("metadata") or {}).get("tax") == "checkout":
            session = _listed_session(known)  # only the session says what is tax
        return _state(chosen, session, with_reversals=True)


def of_new_intent(intent: Any) -> PaymentState:
    """The payment of a new intent, which cannot have refunds yet."""
    return _state(plain(intent), None, with_reversals=False)


def of_intent(id: str) -> PaymentState | None:
    """The payment of an intent with its refunds and disputes; None if Stripe knows none. Raises StripeError."""
    with stripe_api.api_client():
        intent = _intent(id)
        return _state(intent, None, with_reversals=True) if intent else None


def of_listed_intent(intent: dict[str, Any]) -> PaymentState:
    """The payment of an intent from `intents_since`, without its refunds and disputes."""
    return _state(intent, None, with_reversals=False)


def intents_since(moment: datetime) -> Iterator[dict[str, Any]]:
    """All intents created since a time, with their latest charges, newest first. Raises StripeError."""
    with stripe_api.api_client() as client:
        found = client.v1.payment_intents.list(
            {"created": {"gte": int(moment.timestamp())}, "limit": 100, "expand": ["data.latest_charge"]}
        )
        for intent in found.auto_paging_iter():
            yield plain(intent)


def reversals_since(moment: datetime) -> Iterator[dict[str, Any]]:
    """All refunds and disputes created since a time. Raises StripeError."""
    since: Any = {"created": {"gte": int(moment.timestamp())}, "limit": 100}
    with stripe_api.api_client() as client:
        for refund in client.v1.refunds.list(since).auto_paging_iter():
            yield plain(refund)
        for dispute in client.v1.disputes.list(since).auto_paging_iter():
            yield plain(dispute)


def _session(id: str) -> dict[str, Any] | None:
    expand = ["payment_intent.latest_charge", "total_details.breakdown"]
    try:
        with stripe_api.api_client() as client:
            return plain(client.v1.checkout.sessions.retrieve(id, {"expand": expand}))
    except StripeError as error:
        if missing(error):
            return None
        raise


def _intent(id: str) -> dict[str, Any] | None:
    try:
        with stripe_api.api_client() as client:
            return plain(client.v1.payment_intents.retrieve(id, {"expand": ["latest_charge"]}))
    except StripeError as error:
        if missing(error):
            return None
        raise


def _intent_of(session: dict[str, Any] | None) -> dict[str, Any] | None:
    found = session.get("payment_intent") if session else None
    if isinstance(found, str):
        return _intent(found)
    return found if isinstance(found, dict) else None


def _listed_session(known: KnownPayment) -> dict[str, Any] | None:
    with stripe_api.api_client() as client:
        listed = client.v1.checkout.sessions.list(
            {"customer": known.customer, "created": _since(known), "limit": 100}
        )
        for session in listed.auto_paging_iter():
            if (plain(session).get("metadata") or {}).get("operationId") == known.operation_id:
                return _session(session.id)
    return None


def _listed_intents(known: KnownPayment) -> Iterator[dict[str, Any]]:
    with stripe_api.api_client() as client:
        listed = client.v1.payment_intents.list(
            {
                "customer": known.customer,
                "created": _since(known),
                "limit": 100,
                "expand": ["data.latest_charge"],
            }
        )
        for each in listed.auto_paging_iter():
            intent = plain(each)
            if (intent.get("metadata") or {}).get("operationId") == known.operation_id:
                yield intent


def _since(known: KnownPayment) -> Any:
    return {"gte": int((known.created_at - LISTED_BEFORE).timestamp())}


def _state(
    intent: dict[str, Any] | None, session: dict[str, Any] | None, *, with_reversals: bool
) -> PaymentState:
    source = intent or session or {}
    charge = _charge(intent)
    details = (charge.get("payment_method_details") or {}) if charge else {}
    card = details.get("card") or {}
    error = (intent or {}).get("last_payment_error") or {}
    refunded = bool(charge and with_reversals)
    paid_session = session if intent is None or _pays(session, intent) else None
    return PaymentState(
        outcome=_outcome(intent, session),
        operation_id=(source.get("metadata") or {}).get("operationId"),
        customer=id_of(source.get("customer")),
        amount=_amount(intent, session),
        currency=source.get("currency"),
        intent_id=intent["id"] if intent else None,
        session_id=session["id"] if session else None,
        charge_id=charge["id"] if charge else None,
        method_type=details.get("type"),
        card_brand=card.get("brand"),
        card_last4=card.get("last4"),
        card_fingerprint=card.get("fingerprint"),
        failure_code=error.get("decline_code") or error.get("code"),
        failure_message=error.get("message"),
        refunds=_refunds(charge) if charge and refunded else (),
        disputes=_disputes(charge) if charge and refunded else (),
        billing=_billing(session),
        metadata=source.get("metadata") or {},
        on_checkout=paid_session is not None,
        tax=_tax(paid_session),
        tax_lines=_tax_lines(paid_session),
    )


def _billing(session: dict[str, Any] | None) -> dict[str, Any] | None:
    details = (session or {}).get("customer_details") or {}
    address = details.get("address")
    if not address:
        return None
    texts = {"name": details.get("name"), **{name: address.get(name) for name in ADDRESS}}
    ids = [{"type": each["type"], "value": each["value"] or ""} for each in details.get("tax_ids") or []]
    return {name: value or "" for name, value in texts.items()} | {"tax_ids": ids}


def _charge(intent: dict[str, Any] | None) -> dict[str, Any] | None:
    found = intent.get("latest_charge") if intent else None
    if isinstance(found, str):
        with stripe_api.api_client() as client:
            return plain(client.v1.charges.retrieve(found))
    return found if isinstance(found, dict) else None


def _amount(intent: dict[str, Any] | None, session: dict[str, Any] | None) -> int | None:
    """The amount paid, or to be paid."""
    if intent is None:
        return session.get("amount_total") if session else None
    return int(intent["amount_received"] if intent["status"] == "succeeded" else intent["amount"])


def _pays(session: dict[str, Any] | None, intent: dict[str, Any]) -> bool:
    """Whether the intent is the session's, also while the session does not name it yet."""
    named = id_of(session.get("payment_intent")) if session else None
    if session is None or named is not None:
        return bool(named == intent["id"])
    return (intent.get("metadata") or {}).get("tax") == "checkout"


def _tax(session: dict[str, Any] | None) -> int:
    return int(((session or {}).get("total_details") or {}).get("amount_tax") or 0)


def _tax_lines(session: dict[str, Any] | None) -> list[TaxLine] | None:
    if session is None or not (session.get("automatic_tax") or {}).get("enabled"):
        return None
    breakdown = (session.get("total_details") or {}).get("breakdown") or {}
    return session_lines(breakdown.get("taxes") or [])


def _outcome(intent: dict[str, Any] | None, session: dict[str, Any] | None) -> Outcome:
    status = intent["status"] if intent else None
    if status == "succeeded":
        return "paid"
    if session is not None:
        return "cancelled" if session["status"] == "expired" else "pending"
    if status == "canceled":
        return "failed" if (intent or {}).get("last_payment_error") else "cancelled"
    return "failed" if status == "requires_payment_method" else "pending"


def _refunds(charge: dict[str, Any]) -> tuple[RefundState, ...]:
    if charge["status"] != "succeeded":
        return ()
    with stripe_api.api_client() as client:
        found = [
            plain(each)
            for each in client.v1.refunds.list({"charge": charge["id"], "limit": 100}).auto_paging_iter()
        ]
    return tuple(
        RefundState(each["id"], each["amount"], each["status"] or "pending", each.get("reason"), _at(each))
        for each in found
    )


def _disputes(charge: dict[str, Any]) -> tuple[DisputeState, ...]:
    if not charge.get("disputed"):
        return ()
    with stripe_api.api_client() as client:
        found = [
            plain(each)
            for each in client.v1.disputes.list({"charge": charge["id"], "limit": 100}).auto_paging_iter()
        ]
    return tuple(
        DisputeState(
            each["id"], each["amount"], _withdrawn(each), each["status"], each.get("reason"), _at(each)
        )
        for each in found
    )


def _withdrawn(dispute: dict[str, Any]) -> int:
    movements = dispute.get("balance_transactions") or []
    if not movements:
        return int(dispute["amount"]) if dispute["status"] == "lost" else 0
    net = -sum(movement["amount"] for movement in movements)
    if all(movement["currency"] == dispute["currency"] for movement in movements):
        return max(int(net), 0)
    return int(dispute["amount"]) if net > 0 else 0


def _at(found: dict[str, Any]) -> datetime:
    return datetime.fromtimestamp(found["created"], UTC)
