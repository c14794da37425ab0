"""Webhooks of organisations: signed, repeated, logged, switched off after days of failures, never to private addresses."""

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest
from flask import Flask, request
from sqlalchemy import text

from models.core.db import db, now
from models.core.errors import Conflict, Invalid
from models.core.settings import Settings
from models.orgs import Org, OrgAlert, WebhookDelivery, webhook_sending
from models.orgs.alert_delivery import send_alert
from models.orgs.alerts import raise_alert
from models.orgs.webhook_sending import DELAYS, deliver_event
from models.orgs.webhooks import (
    add_webhook,
    check_url,
    enable_webhook,
    enqueue_delivery,
    rotate_secret,
    send_again,
)
from tests.server import serving


class Receiver:
    """A webhook on loopback that answers with `status` and keeps what it is sent."""

    def __init__(self) -> None:
        self.status = 204
        self.received: list[tuple[bytes, dict[str, str]]] = []
        self.url = ""


@pytest.fixture(scope="module")
def running() -> Iterator[Receiver]:
    kept, app = Receiver(), Flask("receiver")

    def take() -> tuple[str, int]:
        kept.received.append((request.get_data(), dict(request.headers)))
        return "", kept.status

    app.add_url_rule("/hook", "take", take, methods=["POST"])
    with serving(app) as address:
        kept.url = f"{address}/hook"
        yield kept


@pytest.fixture
def receiver(running: Receiver, app: Flask, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Receiver:
    """The receiver, in a network that the server may reach."""
    open_settings = settings.model_copy(update={"stoa_outgoing_networks": ("127.0.0.0/8",)})
    monkeypatch.setitem(app.extensions, "settings", open_settings)
    running.status = 204
    running.received.clear()
    return running


def verify(secret: str, body: bytes, headers: dict[str, str]) -> bool:
    """Verify one of the signatures, as a library of Standard Webhooks does."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{headers['Webhook-Id']}.{headers['Webhook-Timestamp']}.".encode() + body
    expected = "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    return expected in headers["Webhook-Signature"].split()


def set_clock(monkeypatch: pytest.MonkeyPatch, moment: datetime) -> None:
    monkeypatch.setattr(webhook_sending, "utc_now", lambda: moment)


def the_delivery() -> WebhookDelivery:
    db.session.expire_all()
    return db.session.query(WebhookDelivery).one()


def test_alert_is_delivered_signed_and_once(acme: Org, receiver: Receiver) -> None:
    _, secret = add_webhook(acme.id, receiver.url)
    raise_alert(acme.id, "budget_stopped", "b1", "critical", "Budget Used Up", "Team CI", {"team_id": "t1"})
    alert = db.session.query(OrgAlert).one()
    send_alert(alert.id)
    db.session.commit()
    for _ in range(2):
        deliver_event(the_delivery().id)
    ((body, headers),) = receiver.received
    assert verify(secret, body, headers)
    sent = json.loads(body)
    assert sent["type"] == "alert.budget_stopped"
    assert sent["data"]["facts"] == {"team_id": "t1"}
    assert sent["data"]["organization"]["slug"] == "acme"
    delivery = the_delivery()
    assert (delivery.state, delivery.status, delivery.attempts) == ("delivered", 204, 1)


def test_failed_delivery_is_repeated_later_and_then_given_up(
    acme: Org, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    webhook, _ = add_webhook(acme.id, receiver.url)
    enqueue_delivery(webhook, "test", {})
    db.session.commit()
    receiver.status = 500
    moment = now() + timedelta(seconds=1)
    for number, delay in enumerate((*DELAYS, None), 1):
        set_clock(monkeypatch, moment)
        deliver_event(the_delivery().id)
        delivery = the_delivery()
        assert (delivery.attempts, delivery.status) == (number, 500)
        assert delivery.next_attempt_at == (moment + delay if delay else None)
        deliver_event(delivery.id)  # not due
        assert len(receiver.received) == number
        moment += delay or timedelta()
    assert the_delivery().state == "failed"
    scheduled = "SELECT count(*) FROM procrastinate_jobs WHERE task_name = 'orgs.deliver_webhook'"
    assert db.session.scalar(text(scheduled)) == len(DELAYS) + 1
    receiver.status = 200
    send_again(webhook, the_delivery().id)
    db.session.commit()
    deliver_event(the_delivery().id)
    assert the_delivery().state == "delivered"
    ids = {headers["Webhook-Id"] for _, headers in receiver.received}
    assert len(ids) == 1


@pytest.mark.parametrize(("status", "after"), [(500, timedelta(days=5)), (410, timedelta())])
def test_webhook_that_keeps_failing_is_switched_off_and_told(
    acme: Org, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, status: int, after: timedelta
) -> None:
    webhook, _ = add_webhook(acme.id, receiver.url)
    webhook.failing_since = now() - after
    enqueue_delivery(webhook, "test", {})
    db.session.commit()
    receiver.status = status
    set_clock(monkeypatch, now() + timedelta(seconds=1))
    deliver_event(the_delivery().id)
    assert webhook.disabled_at is not None
    assert the_delivery().state == "failed"
    assert db.session.query(OrgAlert).one().kind == "webhook_disabled"
    with pytest.raises(Conflict, match="is off"):
        send_again(webhook, the_delivery().id)
    enable_webhook(webhook)
    send_again(webhook, the_delivery().id)


def test_both_secrets_sign_for_a_day_after_rotation(
    acme: Org, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    webhook, old = add_webhook(acme.id, receiver.url)
    new = rotate_secret(webhook)
    for later, valid in ((timedelta(seconds=1), [True, True]), (timedelta(days=1, hours=1), [False, True])):
        delivery = enqueue_delivery(webhook, "test", {})
        db.session.commit()
        set_clock(monkeypatch, now() + later)
        deliver_event(delivery.id)
        body, headers = receiver.received.pop()
        assert [verify(secret, body, headers) for secret in (old, new)] == valid


def test_private_addresses_are_refused(app: Flask, acme: Org) -> None:
    for url in ("http://127.0.0.1/hook", "https://169.254.169.254/", "ftp://example.org/", "nonsense"):
        with pytest.raises(Invalid, match="public internet"):
            check_url(url)
    webhook, _ = add_webhook(acme.id, "https://10.0.0.1/hook")  # or a name that points there later
    enqueue_delivery(webhook, "test", {})
    db.session.commit()
    deliver_event(the_delivery().id)
    delivery = the_delivery()
    assert delivery.state == "waiting"
    assert "not on the public internet" in (delivery.error or "")


def test_unreadable_secret_is_told_in_the_log(acme: Org, receiver: Receiver) -> None:
    webhook, _ = add_webhook(acme.id, receiver.url)
    webhook.sealed_secret = "webhook1:" + base64.b64encode(b"x" * 40).decode()
    enqueue_delivery(webhook, "test", {})
    db.session.commit()
    deliver_event(the_delivery().id)
    delivery = the_delivery()
    assert (delivery.state, receiver.received) == ("failed", [])
    assert "Make a new secret" in (delivery.error or "")
