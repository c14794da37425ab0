"""The operators' page in Chromium: immediate feedback on clicks, updates without reload, no axe violations."""

from typing import Any

import pytest
from flask import Flask
from playwright.sync_api import expect
from sqlalchemy import text
from sqlalchemy.orm import Session as OrmSession

from models.billing.payments import stripe_events
from models.core import jobs
from tests import factories
from tests.admin.test_billing_operations import in_doubt
from tests.billing.stage import Desk
from tests.chromium import WIDTHS, OpenPage, judge, serving
from tests.factories import Person

pytestmark = pytest.mark.browser


def test_an_operator_runs_the_reconciliation_and_retries_an_event(
    app: Flask,
    desk: Desk,
    session: OrmSession,
    root: Person,
    alice: Person,
    open_page: OpenPage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bought = desk.bought(alice)
    (paid,) = desk.events("payment_intent.succeeded")
    desk.deliver(paid)
    with monkeypatch.context() as broken:
        broken.setitem(stripe_events.HANDLERS, "payment_intent.succeeded", [lambda event: 1 // 0])
        with pytest.raises(ZeroDivisionError):
            desk.run(stripe_events.apply_event, paid["id"])
    desk.post(b"{}", secret="whsec_other")
    desk.dispute(bought)
    in_doubt(desk, alice)
    assert root.user is not None
    cookie: Any = factories.browser_cookie(root.user)
    with serving(app) as base, open_page(base) as page:
        page.context.add_cookies([cookie])
        for path in ("", f"/purchases/{bought.id}", "/events", "/purchases"):
            page.goto(f"/admin/billing{path}")
            judge(page, *WIDTHS)
        page.goto("/admin/billing")
        row = page.get_by_role("row", name=paid["id"])
        row.get_by_role("button", name="again").click()
        expect(row).to_contain_text("in the queue")
        card = page.locator("#reconciliation")
        card.get_by_role("button", name="Run now: the reconciliation").click()
        expect(card).to_contain_text("Requested")
        desk.run(jobs.reconcile_purchases, 0)
        session.execute(text("DELETE FROM procrastinate_jobs WHERE task_name = 'billing.reconcile'"))
        session.commit()
        expect(card).to_contain_text("state paid → disputed")
        expect(card).to_contain_text("Agrees")
