"""Deliver webhook events: signed as in Standard Webhooks 1.0, repeated with growing delays, switched off after days of
failures."""

import base64
import hashlib
import hmac
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import requests
from sqlalchemy import delete, select, update

from models.core import jobs, outgoing
from models.core.db import db, extension
from models.core.db import now as utc_now
from models.core.sealing import SealBroken
from models.orgs.alerts import raise_alert
from models.orgs.webhooks import OrgWebhook, WebhookDelivery, secrets_of

DELAYS = tuple(timedelta(seconds=each) for each in (5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400))
"""Between the attempts of a delivery: ten attempts in about three days."""
DISABLED_AFTER = timedelta(days=5)
"""A webhook that has only failed for this long is switched off."""
LEASE = timedelta(seconds=45)
"""How long another job leaves a delivery alone that is being sent. Longer than a request, shorter than the time after which
the job of a dead worker is started again."""
KEPT_FOR = timedelta(days=30)

_GONE = 410


@dataclass(frozen=True)
class OutgoingEvent:
    """A signed request."""

    url: str
    body: bytes
    headers: dict[str, str]


@dataclass(frozen=True)
class WebhookAnswer:
    """How an attempt ended: the status of the answer, or why there is none."""

    status: int | None
    error: str | None

    @property
    def ok(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


def deliver_event(delivery_id: str) -> None:
    """Send a delivery that is due, and enqueue the next attempt if it fails. Commits twice; no transaction is open while the
    request is sent. Idempotent: one that was delivered, or is not due, is left alone."""
    with jobs.transaction():
        event = _claim(delivery_id, utc_now())
    if event is None:
        return
    answer = send_event(event)
    with jobs.transaction():
        _record_answer(delivery_id, answer, utc_now())


def send_event(event: OutgoingEvent) -> WebhookAnswer:
    """POST an event. Redirects count as failures. Call it outside a transaction."""
    session = outgoing.guarded(requests.Session(), extension("settings"))
    try:
        response = session.post(event.url, data=event.body, headers=event.headers, allow_redirects=False)
    except requests.RequestException as error:
        return WebhookAnswer(None, str(error)[:500])
    finally:
        session.close()
    return WebhookAnswer(response.status_code, None)


def signatures(keys: Sequence[bytes], message_id: str, timestamp: int, body: bytes) -> str:
    """The `webhook-signature` header: one signature a key, separated by spaces."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    digests = (hmac.digest(key, signed, hashlib.sha256) for key in keys)
    return " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests)


def forget_deliveries(now: datetime) -> None:
    """Delete deliveries older than 30 days."""
    db.session.execute(delete(WebhookDelivery).where(WebhookDelivery.created_at < now - KEPT_FOR))


def _claim(delivery_id: str, now: datetime) -> OutgoingEvent | None:
    """Count an attempt and return the request; None unless the delivery is due and its webhook is on."""
    query = select(WebhookDelivery).where(WebhookDelivery.id == delivery_id).with_for_update()
    delivery = db.session.scalars(query).one_or_none()
    if delivery is None or delivery.state != "waiting":
        return None
    webhook = db.session.get_one(OrgWebhook, delivery.webhook_id)
    if webhook.disabled_at is not None:
        delivery.state, delivery.next_attempt_at = "failed", None
        return None
    if delivery.next_attempt_at is None or delivery.next_attempt_at > now:
        return None
    try:
        keys = secrets_of(webhook, now)
    except SealBroken:
        delivery.state, delivery.next_attempt_at = "failed", None
        delivery.error = (
            "The signing secret cannot be read, because STOA_SECRET_KEY changed. Make a new secret."
        )
        return None
    delivery.attempts += 1
    delivery.attempted_at, delivery.next_attempt_at = now, now + LEASE
    body = json.dumps(delivery.payload, separators=(",", ":"), ensure_ascii=False).encode()
    timestamp = int(now.timestamp())
    headers = {
        "content-type": "application/json",
        "user-agent": "Stoa-Webhooks/1.0",
        "webhook-id": delivery.id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signatures(keys, delivery.id, timestamp, body),
    }
    return OutgoingEvent(webhook.url, body, headers)


def _record_answer(delivery_id: str, answer: WebhookAnswer, now: datetime) -> None:
    query = select(WebhookDelivery).where(WebhookDelivery.id == delivery_id).with_for_update()
    delivery = db.session.scalars(query).one_or_none()
    if delivery is None:
        return
    webhook = db.session.scalars(
        select(OrgWebhook).where(OrgWebhook.id == delivery.webhook_id).with_for_update()
    ).one()
    delivery.status, delivery.error = answer.status, answer.error
    if answer.ok:
        delivery.state, delivery.next_attempt_at = "delivered", None
        webhook.failing_since = None
        return
    webhook.failing_since = webhook.failing_since or now
    if answer.status == _GONE or now - webhook.failing_since >= DISABLED_AFTER:
        _disable(webhook, now)
    elif delivery.attempts <= len(DELAYS):
        delivery.next_attempt_at = now + DELAYS[delivery.attempts - 1]
        jobs.enqueue(jobs.deliver_webhook, at=delivery.next_attempt_at, delivery_id=delivery.id)
        return
    delivery.state, delivery.next_attempt_at = "failed", None


def _disable(webhook: OrgWebhook, now: datetime) -> None:
    assert webhook.failing_since is not None
    webhook.disabled_at = now
    db.session.execute(
        update(WebhookDelivery)
        .where(WebhookDelivery.webhook_id == webhook.id, WebhookDelivery.state == "waiting")
        .values(state="failed", next_attempt_at=None)
    )
    raise_alert(
        webhook.org_id,
        "webhook_disabled",
        f"{webhook.id}:{now.isoformat()}",
        "warning",
        "Webhook Switched Off",
        f"Deliveries to {webhook.url} have failed since {webhook.failing_since:%-d %b %Y, %H:%M} UTC."
        " Mend the receiver, then switch the webhook on again.",
        {"webhook_id": webhook.id, "url": webhook.url},
        until=now + timedelta(days=30),
    )
