"""The outgoing webhooks of organisations for operators: those in trouble, and deliveries that failed or are repeated."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit

from sqlalchemy import or_, select, tuple_

from models.core.db import db
from models.core.errors import NotFound
from models.orgs import Org
from models.orgs.webhooks import OrgWebhook, WebhookDelivery, send_again

SHOWN = 100
STATES = {"failed": "failed", "retried": "waiting"}
"""States of deliveries by their name on the page."""
_ADDRESS = re.compile(r"url: \S+")


@dataclass(frozen=True, slots=True)
class TroubledWebhook:
    """A webhook whose deliveries fail, or that is off. `host` of its URL: the rest may contain a secret."""

    id: str
    org: Org
    host: str
    failing_since: datetime | None
    disabled_at: datetime | None


@dataclass(frozen=True, slots=True)
class ReviewedDelivery:
    """A delivery with its organisation. `off` is whether its webhook is switched off."""

    delivery: WebhookDelivery
    org: Org
    host: str
    off: bool

    @property
    def reason(self) -> str:
        """How the latest attempt ended."""
        if self.delivery.status is not None:
            return f"The receiver answered {self.delivery.status}"
        return _ADDRESS.sub("url: …", self.delivery.error) if self.delivery.error else "No attempt was made"


def troubled_webhooks() -> Sequence[TroubledWebhook]:
    """Webhooks that fail or are off, the longest failing first; at most `SHOWN`."""
    rows = db.session.execute(
        select(OrgWebhook, Org)
        .join(Org, Org.id == OrgWebhook.org_id)
        .where(or_(OrgWebhook.disabled_at.is_not(None), OrgWebhook.failing_since.is_not(None)))
        .order_by(OrgWebhook.failing_since, OrgWebhook.id)
        .limit(SHOWN)
    )
    return [
        TroubledWebhook(hook.id, org, _host(hook.url), hook.failing_since, hook.disabled_at)
        for hook, org in rows
    ]


def open_deliveries(
    state: str, *, before: tuple[datetime, str] | None, limit: int
) -> Sequence[ReviewedDelivery]:
    """Deliveries of a state of `STATES`, newest first; `before` are the time and the id of the last one of the page before."""
    query = (
        select(WebhookDelivery, OrgWebhook, Org)
        .join(OrgWebhook, OrgWebhook.id == WebhookDelivery.webhook_id)
        .join(Org, Org.id == OrgWebhook.org_id)
        .where(WebhookDelivery.state == STATES[state])
        .order_by(WebhookDelivery.created_at.desc(), WebhookDelivery.id.desc())
        .limit(limit)
    )
    if before is not None:
        query = query.where(tuple_(WebhookDelivery.created_at, WebhookDelivery.id) < before)
    return [
        ReviewedDelivery(delivery, org, _host(hook.url), hook.disabled_at is not None)
        for delivery, hook, org in db.session.execute(query)
    ]


def redeliver(delivery_id: str) -> tuple[str, str]:
    """Enqueue a delivery once more; returns the ids of its organisation and its webhook. Flushes. Raises NotFound, and Conflict for a
    webhook that is off."""
    query = (
        select(OrgWebhook)
        .join(WebhookDelivery, WebhookDelivery.webhook_id == OrgWebhook.id)
        .where(WebhookDelivery.id == delivery_id)
    )
    webhook = None if "\0" in delivery_id else db.session.scalars(query).one_or_none()
    if webhook is None:
        raise NotFound("There is no such delivery.")
    send_again(webhook, delivery_id)
    return webhook.org_id, webhook.id


def _host(url: str) -> str:
    return urlsplit(url).hostname or "unknown host"
