"""Shared by the tests of automatic top-up."""

import json
from datetime import datetime
from typing import Any

from flask.testing import FlaskClient
from sqlalchemy import select, text
from werkzeug.test import TestResponse

from models.accounts import User
from models.billing import AutoTopup, BillingMail, TopupSettings
from models.billing.mails import send_recorded
from models.billing.topups import auto_topup, topup_charging
from models.core.sealing import open_sealed
from tests.billing.stage import Desk
from tests.factories import Person


def enable(desk: Desk, who: Person, threshold: int = 500, amount: int = 2000, cap: int | None = None) -> None:
    """Switch it on, as on the page. Credits; the cap in cents."""
    desk.run(auto_topup.save, who.account, who.id, TopupSettings(True, threshold, amount, cap), source="page")


def top_up(desk: Desk, who: Person, at: datetime | None = None) -> bool:
    """Attempt a top-up as the job does."""
    return desk.run(topup_charging.top_up, who.account, now=at)


def state(desk: Desk, who: Person) -> AutoTopup:
    """The state of the account, which the test may change and commit."""
    desk.session.rollback()
    return desk.session.get_one(AutoTopup, who.id, populate_existing=True)


def enabled(desk: Desk, who: Person) -> bool:
    """Whether it is switched on."""
    desk.session.rollback()
    return desk.session.get_one(User, who.id, populate_existing=True).auto_topup_enabled


def mails(desk: Desk) -> list[Any]:
    """All e-mails so far, oldest first; renders those that are not queued yet."""
    desk.session.rollback()
    waiting = (
        select(BillingMail.id)
        .where(BillingMail.queued_at.is_(None), BillingMail.skipped.is_(None))
        .order_by(BillingMail.created_at)
    )
    for id in desk.session.scalars(waiting).all():
        desk.run(send_recorded, id)
    desk.session.rollback()
    rows = desk.session.execute(
        text("SELECT args FROM procrastinate_jobs WHERE task_name = 'mail.deliver' ORDER BY id")
    )
    return [json.loads(open_sealed(desk.settings.secret_key, "mail", args["sealed"])) for (args,) in rows]


def subjects(desk: Desk) -> list[str]:
    """The subjects of those e-mails."""
    return [each["subject"] for each in mails(desk)]


def post(client: FlaskClient, path: str, data: dict[str, str] | None = None, **kw: Any) -> TestResponse:
    """Submit a form with its CSRF token."""
    token = (client.get("/api/auth/csrf").json or {})["csrfToken"]
    return client.post(path, data={"csrf_token": token} | (data or {}), **kw)
