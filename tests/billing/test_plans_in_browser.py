"""Plans in Chromium: subscribe, toggle the fallback, change and cancel with one click each; no axe violations."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest
from flask import Flask
from playwright.sync_api import Page, expect
from sqlalchemy.orm import Session as OrmSession

from models import billing
from models.accounts import User
from models.billing.payments.billing_details import save_billing_details
from models.core.db import db
from models.ledger import Account
from tests import factories
from tests.billing.stage import Desk
from tests.billing.subscribers import Plans
from tests.billing.test_plans import PRO
from tests.chromium import WIDTHS, OpenPage, judge, serving
from tests.factories import Person

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]

ADDRESS = {"name": "Ada & Co", "line1": "1 Main St", "city": "Oslo", "postal_code": "0150", "country": "NO"}


@pytest.fixture
def base(app: Flask, desk: Desk) -> Iterator[str]:
    with serving(app) as address:
        desk.configure(stoa_base_url=address)
        yield address


def sign_in(page: Page, who: Person) -> None:
    assert who.user
    page.context.add_cookies([factories.browser_cookie(who.user)])


def look(page: Page, *paths: str) -> None:
    for path in paths:
        page.goto(path)
        judge(page, *WIDTHS)


def use(who: Person, credits: int) -> None:
    """Let the plan's first block have paid for calls."""
    subscription = billing.live_subscription(Account(user_id=who.id))
    assert subscription
    assert who.user
    factories.grant(
        who.user,
        350,
        balance=350 - credits,
        type="subscription",
        stripe_subscription_id=subscription.stripe_subscription_id,
        expires_at=factories.now() + timedelta(hours=5),
    )


def test_a_person_subscribes_changes_and_cancels(
    open_page: OpenPage, base: str, desk: Desk, session: OrmSession, alice: Person
) -> None:
    people = Plans(desk)
    desk.run(billing.create_plan, PRO)
    best = people.offer("Max", 10_000, sort=1, windows=PRO.windows)
    basic = people.offer("Basic", 500, sort=-1, windows=PRO.windows[1:2])
    people.offer("Pro yearly", 20_000, interval="year")
    desk.run(save_billing_details, Account(user_id=alice.id), ADDRESS, [])
    with open_page(base) as page:
        look(page, "/pricing")
        sign_in(page, alice)
        look(page, "/profile?tab=plan")
        page.get_by_role("link", name="Compare plans").click()
        page.get_by_role("link", name="Subscribe: Pro").click()
        judge(page)
        page.get_by_role("button", name="Continue to payment").click()
        expect(page.get_by_role("region", name="Play money")).to_be_visible()
        hosted = page.url
        page.goto(f"/profile/plan/started?session_id={hosted.rpartition('/')[2]}")
        expect(page.get_by_text("Waiting for Stripe")).to_be_visible()
        judge(page)
        desk.stripe.pay(hosted.rpartition("/")[2])
        people.deliver_events()
        expect(page.get_by_text("Pro is active")).to_be_visible()  # by polling
        judge(page)

        use(alice, 330)
        look(page, "/profile?tab=plan", "/pricing", f"/profile/plan/change?plan={basic.id}")
        page.goto("/profile?tab=plan")
        expect(page.get_by_text("330 of 350 credits")).to_be_visible()
        page.get_by_role("switch").check()
        expect(page.get_by_text("Saved")).to_be_visible()
        page.reload()
        expect(page.get_by_role("switch")).to_be_checked()

        page.get_by_role("link", name="Change plan: Max").click()
        expect(page.get_by_text("Due now")).to_be_visible()
        judge(page)
        page.get_by_role("button", name="and change").dblclick()
        expect(page.get_by_role("heading", name="Max")).to_be_visible()
        page.get_by_role("link", name="Cancel plan").click()
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text("Cancel Max?")
        judge(page)
        dialog.get_by_role("button", name="Cancel plan").click()
        expect(page.get_by_text("The plan does not renew")).to_be_visible()
        judge(page)
        page.get_by_role("button", name="Resume Max").click()
        expect(page.get_by_text("The plan continues.")).to_be_visible()
    same = people.subscription(alice)
    assert (same.plan_id, same.cancel_at_period_end) == (best.id, False)
    assert [each.status for each in people.invoices(alice)] == ["paid", "paid"]
    desk.prove()


def test_the_journey_works_without_script(
    open_page: OpenPage, base: str, desk: Desk, session: OrmSession, alice: Person
) -> None:
    people = Plans(desk)
    basic = people.offer("Basic", 500, windows=PRO.windows[1:2])
    desk.run(billing.create_plan, PRO)
    desk.run(save_billing_details, Account(user_id=alice.id), ADDRESS, [])
    with open_page(base, script=False, width=390) as page:
        sign_in(page, alice)
        page.goto("/pricing")
        page.get_by_role("link", name="Subscribe: Pro").click()
        page.get_by_role("button", name="Continue to payment").click()
        page.get_by_role("button", name="Subscribe").first.click()
        expect(page.get_by_text("Pro is active")).to_be_visible()
        page.get_by_role("link", name="View plan").click()
        page.get_by_role("switch").check()
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_role("switch")).to_be_checked()
        page.get_by_role("link", name="Change plan: Basic").click()
        page.get_by_role("button", name="Change on").click()
        expect(page.get_by_text("Changes to Basic")).to_be_visible()
        page.get_by_role("button", name="Keep Pro").click()
        page.get_by_role("link", name="Cancel plan").click()
        page.get_by_role("button", name="Cancel plan").click()
        expect(page.get_by_text("The plan does not renew")).to_be_visible()
    same = people.subscription(alice)
    assert same.cancel_at_period_end
    assert same.scheduled_plan_id is None
    assert same.plan_id != basic.id
    db.session.rollback()
    assert db.session.get_one(User, alice.id).fallback_to_a_la_carte


def test_operators_manage_plans(
    open_page: OpenPage, app: Flask, base: str, session: OrmSession, desk: Desk
) -> None:
    root = factories.person(app, "root")
    plan = desk.run(billing.create_plan, PRO)
    desk.run(billing.create_plan, replace(PRO, name="Secret", tier=None, public=False))
    desk.run(lambda: billing.update_plan(billing.get_plan(plan.id), {"price_cents": 2_500}))
    with open_page(base, expected=(422,)) as page:
        sign_in(page, root)
        look(page, "/admin/plans", "/admin/plans/new", f"/admin/plans/{plan.id}")
        page.goto("/admin/plans")
        page.get_by_role("main").get_by_role("link", name="Pro").first.click()
        page.get_by_label("Price").fill("many")
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_text("One field needs a change")).to_be_in_viewport()
        judge(page)
        page.get_by_label("Price").fill("30")
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_text("This creates version 3")).to_be_in_viewport()
        judge(page)
        page.get_by_role("button", name="Save as version 3").click()
        expect(page.get_by_text("Pro version 3 is now for sale.")).to_be_visible()
        page.get_by_role("link", name="Retire plan").click()
        judge(page)
        page.get_by_role("dialog").get_by_role("button", name="Retire plan").click()
        expect(page.get_by_text("Pro is retired.")).to_be_visible()
    db.session.rollback()
    assert [each.name for each in billing.listed_plans(active=True)] == ["Secret"]
