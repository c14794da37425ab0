"""An operator finds an account, grants credits in the dialog and makes a sign-in link, without axe violations."""

from typing import Any

import pytest
from flask import Flask
from playwright.sync_api import expect
from sqlalchemy.orm import Session as OrmSession

from models import ledger
from models.accounts.users import User
from models.admin.git_evals import record_eval
from models.ledger import Account
from models.orgs import Org
from tests import factories
from tests.billing.stage import Desk
from tests.chromium import WIDTHS, OpenPage, judge, serving
from tests.factories import Person

pytestmark = pytest.mark.browser


def test_an_operator_finds_an_account_and_grants_credits(
    app: Flask, desk: Desk, session: OrmSession, root: Person, alice: Person, acme: Org, open_page: OpenPage
) -> None:
    user, org_id = session.get_one(User, alice.id), acme.id
    desk.bought(alice)
    factories.grant(user, 700, "admin", description="Sorry for the outage")
    called = factories.call(user, message=factories.message(user), flags=["cost_above_list"])
    factories.call(
        user, state="failed", error="model_price_missing", provider=None, requested_model="acme/new"
    )
    factories.hold(user, 33)
    message = factories.message(user, client_request_id=factories.run(user).id)
    record_eval(cost_mode=None, reasoner_model=None, agent_model="base", metadata={"avgScore": 7}, cost=1)
    session.commit()
    cookie: Any = factories.browser_cookie(session.get_one(User, root.id))
    with serving(app) as base, open_page(base, expected=(422,)) as page:
        page.context.add_cookies([cookie])
        for path in (
            "?q=a",
            "/calls",
            "/takedowns",
            "/providers",
            "/jobs",
            f"/accounts/{org_id}",
            f"/traces/runs/{message.client_request_id}",
            "/evals",
            f"/accounts/{alice.id}?call={called.request_id}",
        ):
            page.goto(f"/admin{path}")
            judge(page, *WIDTHS)
        page.goto("/admin")
        page.get_by_label("Find an account").fill("alice@")
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text("alice")
        page.get_by_role("link", name="Grant credits").click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("Reason").fill("Sorry again")
        dialog.get_by_role("button", name="Grant").click()
        expect(dialog).to_contain_text("Enter 1 to 100,000,000 credits")
        judge(page)
        dialog.get_by_label("Credits").fill("250")
        dialog.get_by_role("button", name="Grant").dblclick()
        expect(page.locator("#grants")).to_contain_text("Sorry again")
        page.get_by_role("link", name="Sign-in link").click()
        dialog.get_by_label("Reason").fill("Lost their mailbox")
        dialog.get_by_role("button", name="Make the link").click()
        expect(dialog).to_contain_text("/login/link/")
        judge(page)
    session.rollback()
    grants = ledger.grants_of(Account(user_id=alice.id))
    assert [each.principal for each in grants if each.description == "Sorry again"] == [250]
