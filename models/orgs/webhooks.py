"""Webhooks of organisations: the URLs that get its alerts, their signing secrets, and the log of deliveries."""

import base64
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, select, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.core import jobs, outgoing
from models.core.db import NEW_ID, NOW, Base, db, extension
from models.core.db import now as utc_now
from models.core.errors import Conflict, Invalid, NotFound
from models.core.sealing import open_sealed, seal
from models.orgs.audit import record_org

MAX_WEBHOOKS = 5
OLD_SECRET_VALID = timedelta(hours=24)
"""How long deliveries are also signed with the secret before the last rotation."""
LOG_PAGE = 50

_PURPOSE = "webhook"


class OrgWebhook(Base):
    """A URL that gets the organisation's alerts. `failing_since` is the first failure after the last success."""

    __tablename__ = "org_webhook"
    __table_args__ = (Index("idx_org_webhook_org", "org_id"),)

    id: Mapped[str] = mapped_column(primary_key=True, server_default=NEW_ID)
    org_id: Mapped[str] = mapped_column(ForeignKey("org.id", ondelete="CASCADE"))
    url: Mapped[str]
    sealed_secret: Mapped[str]
    sealed_old_secret: Mapped[str | None]
    rotated_at: Mapped[datetime | None]
    failing_since: Mapped[datetime | None]
    disabled_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class WebhookDelivery(Base):
    """An event for one webhook: its payload, and how the latest attempt ended (`status` of the answer, or `error`)."""

    __tablename__ = "org_webhook_delivery"
    __table_args__ = (
        CheckConstraint(
            "(state = ANY (ARRAY['waiting'::text, 'delivered'::text, 'failed'::text]))", name="state_known"
        ),
        Index("idx_org_webhook_delivery_log", "webhook_id", "created_at", "id"),
        Index("idx_org_webhook_delivery_created", "created_at"),
        # for operators (models/admin/webhook_review.py)
        Index(
            "idx_org_webhook_delivery_open",
            "state",
            "created_at",
            "id",
            postgresql_where=text("(state <> 'delivered'::text)"),
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True, server_default=NEW_ID)
    webhook_id: Mapped[str] = mapped_column(ForeignKey("org_webhook.id", ondelete="CASCADE"))
    event: Mapped[str]
    payload: Mapped[dict[str, Any]] = mapped_column(JSONB)
    state: Mapped[str] = mapped_column(server_default=text("'waiting'::text"))
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    status: Mapped[int | None]
    error: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    attempted_at: Mapped[datetime | None]
    next_attempt_at: Mapped[datetime | None]


def webhooks_of(org_id: str) -> Sequence[OrgWebhook]:
    """The organisation's webhooks, oldest first."""
    query = (
        select(OrgWebhook).where(OrgWebhook.org_id == org_id).order_by(OrgWebhook.created_at, OrgWebhook.id)
    )
    return db.session.scalars(query).all()


def webhook_of(org_id: str, webhook_id: str) -> OrgWebhook:
    """A webhook of the organisation. Raises NotFound."""
    query = select(OrgWebhook).where(OrgWebhook.org_id == org_id, OrgWebhook.id == webhook_id)
    found = None if "\x00" in webhook_id else db.session.scalars(query).one_or_none()
    if found is None:
        raise NotFound("There is no such webhook")
    return found


def check_url(url: str) -> str:
    """Check a webhook's URL, and return it. Resolves its host: call it outside a transaction. Raises Invalid."""
    url = url.strip()
    try:
        outgoing.check(url, extension("settings"))
    except outgoing.OutgoingRefused as refused:
        message = f"Enter an https:// URL on the public internet{f': {refused}' if url else ''}."
        raise Invalid(message, fields={"url": message}) from None
    return url


def add_webhook(org_id: str, url: str) -> tuple[OrgWebhook, str]:
    """Add a webhook for a checked URL; returns it with its secret, which is never shown again. Flushes. Raises Conflict."""
    if len(webhooks_of(org_id)) >= MAX_WEBHOOKS:
        raise Conflict(f"An organisation has at most {MAX_WEBHOOKS} webhooks. Remove one first.")
    secret = _new_secret()
    webhook = OrgWebhook(org_id=org_id, url=url, sealed_secret=_sealed(secret))
    db.session.add(webhook)
    db.session.flush()
    record_org(org_id, "webhook.added", url)
    return webhook, secret


def rotate_secret(webhook: OrgWebhook) -> str:
    """Give a webhook a new secret and return it; the old one still signs for a day. Flushes."""
    secret = _new_secret()
    webhook.sealed_old_secret, webhook.sealed_secret = webhook.sealed_secret, _sealed(secret)
    webhook.rotated_at = utc_now()
    db.session.flush()
    record_org(webhook.org_id, "webhook.secret_rotated", webhook.url)
    return secret


def remove_webhook(webhook: OrgWebhook) -> None:
    """Remove a webhook with its log. Flushes."""
    db.session.delete(webhook)
    db.session.flush()
    record_org(webhook.org_id, "webhook.removed", webhook.url)


def enable_webhook(webhook: OrgWebhook) -> None:
    """Switch a webhook on again. Flushes."""
    webhook.disabled_at = webhook.failing_since = None
    db.session.flush()
    record_org(webhook.org_id, "webhook.enabled", webhook.url)


def secrets_of(webhook: OrgWebhook, now: datetime) -> list[bytes]:
    """The keys that sign a delivery now: the current one, and the one before for a day after a rotation."""
    sealed = [webhook.sealed_secret]
    if webhook.sealed_old_secret and webhook.rotated_at and now < webhook.rotated_at + OLD_SECRET_VALID:
        sealed.append(webhook.sealed_old_secret)
    secret_key = extension("settings").secret_key
    return [open_sealed(secret_key, _PURPOSE, each) for each in sealed]


# -- deliveries ------------------------------------------------------------------------------------------------


def enqueue_event(org_id: str, event: str, data: dict[str, Any]) -> None:
    """Enqueue an event for each webhook of the organisation that is on, in the current transaction. Flushes."""
    for webhook in webhooks_of(org_id):
        if webhook.disabled_at is None:
            enqueue_delivery(webhook, event, data)


def enqueue_delivery(webhook: OrgWebhook, event: str, data: dict[str, Any]) -> WebhookDelivery:
    """Enqueue an event for one webhook in the current transaction: `{"type", "timestamp", "data"}`. Flushes."""
    moment = utc_now()
    payload = {"type": event, "timestamp": moment.isoformat(timespec="milliseconds"), "data": data}
    delivery = WebhookDelivery(webhook_id=webhook.id, event=event, payload=payload, next_attempt_at=moment)
    db.session.add(delivery)
    db.session.flush()
    jobs.enqueue(jobs.deliver_webhook, delivery_id=delivery.id)
    return delivery


def deliveries_of(webhook: OrgWebhook) -> Sequence[WebhookDelivery]:
    """The latest 50 deliveries of a webhook, newest first."""
    query = (
        select(WebhookDelivery)
        .where(WebhookDelivery.webhook_id == webhook.id)
        .order_by(WebhookDelivery.created_at.desc(), WebhookDelivery.id.desc())
        .limit(LOG_PAGE)
    )
    return db.session.scalars(query).all()


def send_again(webhook: OrgWebhook, delivery_id: str) -> None:
    """Enqueue a delivery once more, under its own id, so that the receiver can tell it is a repetition. Flushes. Raises
    NotFound, and Conflict for a webhook that is off."""
    query = select(WebhookDelivery).where(
        WebhookDelivery.webhook_id == webhook.id, WebhookDelivery.id == delivery_id
    )
    delivery = None if "\x00" in delivery_id else db.session.scalars(query).one_or_none()
    if delivery is None:
        raise NotFound("There is no such delivery")
    if webhook.disabled_at is not None:
        raise Conflict("This webhook is off. Switch it on first.")
    delivery.state, delivery.attempts, delivery.next_attempt_at = "waiting", 0, utc_now()
    db.session.flush()
    jobs.enqueue(jobs.deliver_webhook, delivery_id=delivery.id)


def _new_secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode()


def _sealed(secret: str) -> str:
    raw = base64.b64decode(secret.removeprefix("whsec_"))
    return seal(extension("settings").secret_key, _PURPOSE, raw)
