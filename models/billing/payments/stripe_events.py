"""Stripe's webhooks: an event is checked, stored once by its id and answered; a job works it, and asks Stripe for the
objects again, so that late, repeated and reordered events do no harm."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Index, cast, func, or_, select, text, tuple_, update
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.orm import Mapped, mapped_column

from models.accounts.users import User
from models.billing import stripe_api
from models.billing.payments import cards, disputes
from models.billing.payments.payment_state import PaymentMismatch
from models.billing.payments.purchase import Purchase
from models.billing.payments.transitions import purchase_of_payment, sync
from models.billing.stripe_api import StripeError, id_of, missing, plain
from models.core import jobs
from models.core.db import NOW, Base, db
from models.core.db import now as utc_now
from models.core.errors import Invalid, NotFound
from models.core.jobs import transaction
from models.orgs import Org

log = logging.getLogger("stoa.billing")

TOLERANCE = 300
"""Seconds that the signature of an event may be old."""


TROUBLED = ("waiting", "failed", "ignored")
"""States of events that an operator looks at."""

KEPT_FOR = timedelta(days=90)
"""How long what an event said is kept once it is handled."""


class StripeEvent(Base):
    """A signed event of Stripe's. `ignored` says why it changed nothing where it should have; `error` is the last try's."""

    __tablename__ = "stripe_event"
    __table_args__ = (
        Index("idx_stripe_event_received", "received_at"),
        Index("idx_stripe_event_waiting", "received_at", postgresql_where=text("(handled_at IS NULL)")),
        Index("idx_stripe_event_ignored", "received_at", postgresql_where=text("(ignored IS NOT NULL)")),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    type: Mapped[str]
    object_id: Mapped[str | None]
    created_at: Mapped[datetime]
    received_at: Mapped[datetime] = mapped_column(server_default=NOW)
    handled_at: Mapped[datetime | None]
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    error: Mapped[str | None]
    ignored: Mapped[str | None]
    payload: Mapped[dict[str, Any]] = mapped_column(JSONB)

    @property
    def state(self) -> str:
        """`ignored`, `handled`, `failed` (it is tried again, or was given up) or `waiting`."""
        if self.ignored is not None:
            return "ignored"
        if self.handled_at is not None:
            return "handled"
        return "failed" if self.error is not None else "waiting"


class WebhookRefusal(Base):
    """How many webhooks were refused on a day (UTC), by reason: what is not signed is counted and not kept."""

    __tablename__ = "webhook_refusal"

    day: Mapped[date] = mapped_column(primary_key=True)
    reason: Mapped[str] = mapped_column(primary_key=True)
    count: Mapped[int] = mapped_column(server_default=text("1"))
    last_at: Mapped[datetime] = mapped_column(server_default=NOW)


class WebhookClosed(Invalid):
    """There is no signing secret: nothing that comes can be believed."""

    def __init__(self) -> None:
        super().__init__("STRIPE_WEBHOOK_SECRET is not set, so no event can be checked.", status=503)


class WebhookForged(Invalid):
    """The signature is missing, wrong or too old, or what it signs is no event."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, status=400)


@dataclass(frozen=True, slots=True)
class EventOfStripe:
    """What a handler is given: its type and the object as it was when the event was made."""

    id: str
    type: str
    object: dict[str, Any]


def receive(body: bytes, signature: str | None) -> bool:
    """Check an event's signature over its raw body and store it with its job, once by its id; whether it is new. Flushes.

    A repeated event whose job had given up is worked anew. Raises WebhookClosed, WebhookForged.
    """
    secret = stripe_api.billing_settings().webhook_secret
    if secret is None:
        raise WebhookClosed
    event = _checked(body, signature, secret)
    created = db.session.scalars(
        insert(StripeEvent)
        .values(
            id=event["id"],
            type=event["type"],
            object_id=event["data"]["object"].get("id"),
            created_at=datetime.fromtimestamp(event["created"], UTC),
            payload=event,
        )
        .on_conflict_do_nothing()
        .returning(StripeEvent.id)
    ).one_or_none()
    if created is None:
        return retry_event(event["id"], failed_only=True)
    jobs.enqueue(jobs.handle_stripe_event, event_id=event["id"])
    return True


def note_refusal(reason: str, *, now: datetime | None = None) -> None:
    """Count a webhook that was refused, for the operator. Flushes."""
    now = now or utc_now()
    db.session.execute(
        insert(WebhookRefusal)
        .values(day=now.astimezone(UTC).date(), reason=reason[:200], last_at=now)
        .on_conflict_do_update(
            index_elements=["day", "reason"], set_={"count": WebhookRefusal.count + 1, "last_at": now}
        )
    )


def retry_event(id: str, *, failed_only: bool = False) -> bool:
    """Work an event again that is not handled (`failed_only`: and whose last try failed); whether it is. Flushes."""
    waits = [StripeEvent.id == id, StripeEvent.handled_at.is_(None)]
    if failed_only:
        waits.append(StripeEvent.error.is_not(None))
    changed: Any = db.session.execute(update(StripeEvent).where(*waits).values(error=None))
    if changed.rowcount:
        jobs.enqueue(jobs.handle_stripe_event, event_id=id)
    return bool(changed.rowcount)


def apply_event(id: str) -> None:
    """Do what an event asks for: the job behind `receive`. Takes transactions of its own.

    It is handled only when all is done; what does not fit our books changes nothing and is noted for the operator. Raises
    whatever went wrong, for the job to try again.
    """
    with transaction():
        row = db.session.get(StripeEvent, id, populate_existing=True)
        if row is None or row.handled_at is not None:
            return
        row.attempts += 1
        event = EventOfStripe(row.id, row.type, row.payload["data"]["object"])
    reasons: list[str] = []
    try:
        for handler in HANDLERS.get(event.type, ()):
            try:
                handler(event)
            except PaymentMismatch as error:
                reasons.append(str(error))
                log.warning("event %s (%s) is ignored: %s", event.id, event.type, error)
    except Exception as error:
        with transaction():
            _note(id, error=f"{type(error).__name__}: {error}"[:500])
        raise
    ignored = "; ".join(dict.fromkeys(reasons)) or None
    with transaction():
        _note(id, handled_at=utc_now(), error=None, ignored=ignored)


def stripe_events(
    *,
    troubled: bool,
    state: str | None = None,
    before: tuple[datetime, str] | None = None,
    limit: int = 100,
) -> list[StripeEvent]:
    """Events for the operator, newest first; `troubled` are those that wait, failed, or were ignored. `state`: only those of
    one state; `before` is the last one of the page before (its time and id)."""
    query = select(StripeEvent).order_by(StripeEvent.received_at.desc(), StripeEvent.id.desc()).limit(limit)
    if troubled:
        query = query.where(StripeEvent.handled_at.is_(None) | StripeEvent.ignored.is_not(None))
    if state is not None:
        query = query.where(_in_state(state))
    if before is not None:
        query = query.where(tuple_(StripeEvent.received_at, StripeEvent.id) < before)
    return list(db.session.scalars(query.execution_options(populate_existing=True)))


def stripe_event(id: str) -> StripeEvent:
    """One event, for the operator. Raises NotFound."""
    found = db.session.get(StripeEvent, id, populate_existing=True)
    if found is None:
        raise NotFound("There is no such event.")
    return found


def count_troubled(*, days: int = 30, now: datetime | None = None) -> dict[str, int]:
    """How many events of the last days wait, failed and were ignored."""
    since = (now or utc_now()) - timedelta(days=days)
    return {
        state: db.session.scalars(
            select(func.count())
            .select_from(StripeEvent)
            .where(_in_state(state), StripeEvent.received_at >= since)
        ).one()
        for state in TROUBLED
    }


def purchases_of_events(events: Sequence[StripeEvent]) -> dict[str, str]:
    """The purchases that events are about, by event id: those that the metadata names, or whose payment it is."""
    named = {event.id: _references(event) for event in events}
    ids = {id for references in named.values() for id in references}
    columns = (
        Purchase.id,
        Purchase.stripe_payment_intent_id,
        Purchase.stripe_charge_id,
        Purchase.stripe_checkout_session_id,
    )
    rows = (
        db.session.execute(select(*columns).where(or_(*(column.in_(ids) for column in columns))))
        if ids
        else ()
    )
    found = {id: row[0] for row in rows for id in row if id}
    return {
        event: purchase
        for event, references in named.items()
        if (purchase := next((found[id] for id in references if id in found), None))
    }


def _references(event: StripeEvent) -> list[str]:
    told = (event.payload.get("data") or {}).get("object") or {}
    metadata = told.get("metadata")
    named = metadata.get("operationId") if isinstance(metadata, dict) else None
    references = [named, event.object_id, told.get("payment_intent"), told.get("charge")]
    return [each for each in references if isinstance(each, str)]


def _in_state(state: str) -> ColumnElement[bool]:
    return {
        "waiting": StripeEvent.handled_at.is_(None) & StripeEvent.error.is_(None),
        "failed": StripeEvent.handled_at.is_(None) & StripeEvent.error.is_not(None),
        "ignored": StripeEvent.ignored.is_not(None),
    }[state]


def webhook_refusals(
    *, days: int = 30, limit: int = 100, now: datetime | None = None
) -> list[WebhookRefusal]:
    """Refused webhooks of the last days, newest first."""
    since = ((now or utc_now()) - timedelta(days=days)).date()
    query = select(WebhookRefusal).where(WebhookRefusal.day >= since).order_by(WebhookRefusal.last_at.desc())
    return list(db.session.scalars(query.limit(limit)))


def forget_payloads(*, now: datetime | None = None) -> int:
    """Empty the events that were handled 90 days ago: they name people and cards. Ids stay, so that a late repetition is
    still known; how many were emptied. Flushes."""
    emptied: Any = db.session.execute(
        update(StripeEvent)
        .where(
            StripeEvent.handled_at < (now or utc_now()) - KEPT_FOR,
            StripeEvent.payload != cast({}, JSONB),
        )
        .values(payload={})
        .execution_options(synchronize_session=False)
    )
    return int(emptied.rowcount)


def _note(id: str, **values: Any) -> None:
    db.session.execute(
        update(StripeEvent)
        .where(StripeEvent.id == id)
        .values(**values)
        .execution_options(synchronize_session=False)
    )


def _checked(body: bytes, signature: str | None, secret: str) -> dict[str, Any]:
    import stripe

    try:
        stripe.WebhookSignature.verify_header(body.decode(), signature or "", secret, TOLERANCE)
    except UnicodeDecodeError:
        raise WebhookForged("The body is no text") from None
    except stripe.SignatureVerificationError as error:
        # its text repeats a time that anybody may have sent
        old = "tolerance" in str(error)
        raise WebhookForged("The signature is too old" if old else "No valid signature") from None
    try:
        event = orjson.loads(body)
        fits = (
            isinstance(event["id"], str)
            and isinstance(event["type"], str)
            and isinstance(event["created"], int)
            and isinstance(event["data"]["object"], dict)
        )
    except (ValueError, KeyError, TypeError):
        fits = False
    if not fits or b"\\u0000" in body:
        raise WebhookForged("This is no event")
    found: dict[str, Any] = event
    return found


# -- what events do -------------------------------------------------------------------------------------------

Handler = Callable[[EventOfStripe], None]

HANDLERS: dict[str, list[Handler]] = {}
"""What is done by type, in order; any other event is stored and changes nothing."""


def on_event(*types: str) -> Callable[[Handler], Handler]:
    """Call the function for every event of these types, inside the job and outside transactions. It is called again for
    repetitions and after failures, and looks at Stripe's present state, not at the event's."""

    def register(handler: Handler) -> Handler:
        for type in types:
            HANDLERS.setdefault(type, []).append(handler)
        return handler

    return register


def _of_operation(event: EventOfStripe) -> str | None:
    """The purchase that the object's metadata names; None if it is no purchase of ours."""
    metadata = event.object.get("metadata") or {}
    operation = metadata.get("operationId")
    if operation is None or metadata.get("grantType") not in ("purchase", "organization_purchase"):
        return None
    if db.session.get(Purchase, operation) is None:
        raise PaymentMismatch(f"{operation}: there is no such purchase")
    return str(operation)


@on_event(
    "checkout.session.completed",
    "checkout.session.async_payment_succeeded",
    "checkout.session.async_payment_failed",
    "checkout.session.expired",
)
def _session_changed(event: EventOfStripe) -> None:
    with transaction():
        purchase_id = _of_operation(event)
    if purchase_id is not None:
        purchase = sync(purchase_id, session_id=event.object["id"])
        if purchase.paid:
            _keep_card(purchase.stripe_customer_id, purchase.stripe_payment_intent_id)
    if event.type == "checkout.session.completed" and event.object.get("mode") == "setup":
        _card_saved(event)


@on_event(
    "payment_intent.succeeded",
    "payment_intent.processing",
    "payment_intent.payment_failed",
    "payment_intent.canceled",
)
def _intent_changed(event: EventOfStripe) -> None:
    with transaction():
        purchase_id = _of_operation(event)
    if purchase_id is not None:
        sync(purchase_id, intent_id=event.object["id"])


@on_event("charge.refunded", "charge.refund.updated", "refund.created", "refund.updated", "refund.failed")
def _charge_changed(event: EventOfStripe) -> None:
    """A refund, or the charge itself."""
    _of_charge(event)


@on_event(
    "charge.dispute.created",
    "charge.dispute.updated",
    "charge.dispute.closed",
    "charge.dispute.funds_withdrawn",
    "charge.dispute.funds_reinstated",
)
def _dispute_changed(event: EventOfStripe) -> None:
    _of_charge(event)


@on_event("charge.dispute.created")
def _dispute_opened(event: EventOfStripe) -> None:
    """Every dispute of a customer counts for a ban, whatever was paid."""
    try:
        with stripe_api.api_client() as client:
            charge = plain(client.v1.charges.retrieve(id_of(event.object.get("charge")) or "none"))
    except StripeError as error:
        if missing(error):
            raise PaymentMismatch(f"Stripe knows no charge {event.object.get('charge')}") from None
        raise
    customer = id_of(charge.get("customer"))
    if customer is not None:
        disputes.ban_repeated(customer)


@on_event("radar.early_fraud_warning.created", "radar.early_fraud_warning.updated")
def _fraud_warned(event: EventOfStripe) -> None:
    purchase_id = _of_charge(event)
    if purchase_id is not None:
        disputes.answer_fraud_warning(event.object["id"], purchase_id)


def _of_charge(event: EventOfStripe) -> str | None:
    """Bring the purchase up to date whose charge the object is or is of; its id, or None if it is none of ours."""
    told = event.object
    charge_id = told["id"] if told.get("object") == "charge" else id_of(told.get("charge"))
    intent_id = id_of(told.get("payment_intent"))
    with transaction():
        purchase_id = purchase_of_payment(intent_id, charge_id)
    if purchase_id is None:
        intent_id, purchase_id = _purchase_of_unknown(intent_id, charge_id)
    if purchase_id is not None:
        sync(purchase_id, intent_id=intent_id)
    return purchase_id


def _purchase_of_unknown(intent_id: str | None, charge_id: str | None) -> tuple[str | None, str | None]:
    """Of a payment that we have not heard of yet: the event of its success is late."""
    try:
        with stripe_api.api_client() as client:
            if intent_id is None and charge_id is not None:
                intent_id = id_of(plain(client.v1.charges.retrieve(charge_id)).get("payment_intent"))
            if intent_id is None:
                return None, None
            intent = plain(client.v1.payment_intents.retrieve(intent_id))
    except StripeError as error:
        if missing(error):
            raise PaymentMismatch(f"Stripe knows no payment {intent_id or charge_id}") from None
        raise
    with transaction():
        return intent_id, _of_operation(EventOfStripe("", "", intent))


def _keep_card(customer_id: str, intent_id: str | None) -> None:
    """The first card that pays on Checkout becomes the default."""
    if intent_id is None:
        return
    with stripe_api.api_client() as client:
        intent = plain(client.v1.payment_intents.retrieve(intent_id))
    method = id_of(intent.get("payment_method"))
    if method is not None and intent.get("setup_future_usage"):
        try:
            cards.ensure_default_card(customer_id, method)
        except NotFound:
            log.info("the card of %s was not saved", intent_id)


def _card_saved(event: EventOfStripe) -> None:
    """A card that was saved on Stripe's page is the default where no other can be charged."""
    with stripe_api.api_client() as client:
        session = plain(
            client.v1.checkout.sessions.retrieve(event.object["id"], {"expand": ["setup_intent"]})
        )
    customer, intent = id_of(session.get("customer")), session.get("setup_intent")
    method = id_of(intent.get("payment_method")) if isinstance(intent, dict) else None
    if customer is not None and method is not None:
        cards.ensure_default_card(customer, method)


@on_event("invoice.payment_failed")
def _invoice_failed(event: EventOfStripe) -> None:
    """An automatic top-up by invoice that failed turns top-ups off (contract 2.11)."""
    told = event.object
    metadata = told.get("metadata") or {}
    if metadata.get("type") != "auto-topup" or told.get("billing_reason") != "manual":
        return
    customer = id_of(told.get("customer"))
    with transaction():
        found = 0
        for table, id in ((User, metadata.get("userId")), (Org, metadata.get("organizationId"))):
            changed: Any = db.session.execute(
                update(table)
                .where(table.id == id, table.stripe_customer_id == customer)
                .values(auto_topup_enabled=False)
                .execution_options(synchronize_session=False)
            )
            found += changed.rowcount
        if not found:
            raise PaymentMismatch(
                f"invoice {told.get('id')}: the customer is none of ours, or another account's"
            )
