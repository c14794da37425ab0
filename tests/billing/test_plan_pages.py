"""The pages of plans before, during and after a subscription, and their access control."""

import re
from typing import Any

import pytest
from sqlalchemy import event, text
from werkzeug.test import TestResponse

from models import billing
from models.accounts import User
from models.billing import Plan, WindowLimit
from models.billing.payments.billing_details import save_billing_details
from models.core.db import db
from models.ledger import Account
from tests.billing.stage import Desk
from tests.billing.subscribers import Plans
from tests.factories import Person

PRICING = "/pricing"
PAGE = "/profile?tab=plan"
CHECKOUT = "/profile/plan/checkout"
STARTED = "/profile/plan/started"
CHANGE = "/profile/plan/change"
CANCEL = "/profile/plan/cancellation"
RESUME = "/profile/plan/resumption"
FALLBACK = "/profile/plan/fallback"
HTMX = {"HX-Request": "true"}
ADDRESS = {"name": "Ada", "line1": "1 Main St", "city": "Oslo", "postal_code": "0150", "country": "NO"}
WINDOWS = (
    WindowLimit("5 hours", 5, 350),
    WindowLimit("Week", 168, 3_500),
    WindowLimit("Month", None, 14_000),
)


@pytest.fixture
def people(desk: Desk) -> Plans:
    return Plans(desk)


@pytest.fixture
def pro(people: Plans) -> Plan:
    return people.offer("Pro", 2_000, windows=WINDOWS, included_credits=500, features=["Priority support"])


def page(who: Person, path: str = PAGE, *, status: int = 200, **more: Any) -> str:
    answer = who.browser.get(path, **more)
    assert answer.status_code == status, answer.text
    return answer.text


def post(who: Person, path: str, data: dict[str, Any] | None = None, **more: Any) -> TestResponse:
    token = (who.browser.get("/api/auth/csrf").json or {})["csrfToken"]
    return who.browser.post(path, data={"csrf_token": token} | (data or {}), **more)


def shows(found: str, *phrases: str) -> None:
    for phrase in phrases:
        assert phrase in found, phrase


def hides(found: str, *phrases: str) -> None:
    for phrase in phrases:
        assert phrase not in found, phrase


def test_prices_are_public_and_lead_to_the_next_step(
    desk: Desk, people: Plans, pro: Plan, alice: Person, anonymous: Person
) -> None:
    people.offer("Secret", 100, public=False)
    year = people.offer("Pro yearly", 20_000, interval="year", models=["openai/*"], requests_per_minute=60)
    found = page(anonymous, PRICING)
    shows(
        found,
        *(
            "Pro",
            "$20.00",
            "a month",
            "Priority support",
            "350 credits every 5 hours",
            "3,500 credits a week",
        ),
        *("14,000 credits a month", "500 included credits a month", "All models", "Buy credits", "Test mode"),
        f'href="{CHECKOUT}?plan={pro.id}"',
    )
    hides(found, "Secret", "Pro yearly", "Your plan")
    shows(
        page(anonymous, f"{PRICING}?interval=year"),
        *("$200.00", "a year", "Models: openai/*", "60 requests a minute"),
    )
    shows(page(anonymous, f"{PRICING}?interval=decade"), "$20.00")
    shows(page(anonymous, "/"), f'href="{PRICING}"')
    people.subscribed(alice, pro)
    found = page(alice, PRICING)
    shows(found, "Your plan", f'href="{PAGE}"')
    hides(found, f"{CHECKOUT}?plan")
    shows(page(alice, f"{PRICING}?interval=year"), f'href="{CHANGE}?plan={year.id}"')
    for plan in (pro, year):
        desk.run(lambda id=plan.id: billing.retire_plan(billing.get_plan(id)))
    found = page(anonymous, PRICING)
    shows(found, "$5.00", "Buy credits")
    hides(found, "Subscribe", "Without a plan")


def test_a_server_without_payments_has_no_prices(desk: Desk, pro: Plan, alice: Person) -> None:
    desk.app.extensions["stripe"] = None
    page(alice, PRICING, status=404)
    hides(page(alice, "/"), PRICING)
    shows(page(alice), "does not sell plans")
    page(alice, f"{CHECKOUT}?plan={pro.id}", status=503)
    assert post(alice, CANCEL).status_code == 503


def test_subscribing_needs_details_then_checkout_then_shows_the_state(
    desk: Desk, people: Plans, pro: Plan, alice: Person, mallory: Person
) -> None:
    shows(page(alice), "No plan yet", "Compare plans")
    review = f"{CHECKOUT}?plan={pro.id}"
    details = f"/profile/billing/details?plan={pro.id}"
    assert alice.browser.get(review).headers["Location"] == details
    assert post(alice, CHECKOUT, {"plan": pro.id}).headers["Location"] == details
    shows(page(alice, details), f'name="plan" value="{pro.id}"', "Save and continue")
    answer = post(alice, "/profile/billing/details", ADDRESS | {"plan": pro.id})
    assert answer.headers["Location"] == review
    shows(page(alice, review), "Due today", "$20.00", "1 Main St", "Renews every month", "Test mode")

    hosted = post(alice, CHECKOUT, {"plan": pro.id}).headers["Location"]
    assert hosted.startswith(desk.stripe.url)
    session = hosted.rpartition("/")[2]
    started = f"{STARTED}?session_id={session}"
    waiting = page(alice, started)
    shows(waiting, "Waiting for Stripe", 'hx-trigger="every 2s"')
    shows(page(mallory, started), "No such payment")
    shows(page(alice, f"{STARTED}?session_id=cs_other"), "No such payment")
    shows(page(alice, f"{started}&poll=1", headers=HTMX), "Waiting for Stripe")

    desk.stripe.pay(session)
    fragment = page(alice, f"{started}&poll=5", headers=HTMX)
    shows(fragment, "Pro is active", "$20.00 a month", "500 each month")
    hides(fragment, "hx-get", "<html")
    found = page(alice)
    shows(
        found,
        *("Active", "5 hours", "0 of 350 credits", "Week", "0 of 3,500 credits", "0 of 14,000 credits"),
        *("Starts with your next call", "Renews", "Cancel plan", "Payments", "$20.00"),
    )
    people.deliver_events()
    assert post(alice, CHECKOUT, {"plan": pro.id}).headers["Location"] == PAGE
    assert alice.browser.get(review).headers["Location"] == f"{CHANGE}?plan={pro.id}"
    assert len(desk.sim.find("subscription")) == 1
    desk.prove()


def test_a_payment_that_is_cancelled_or_refused_leaves_no_plan(
    desk: Desk, people: Plans, pro: Plan, alice: Person
) -> None:
    desk.run(save_billing_details, Account(user_id=alice.id), ADDRESS, [])
    hosted = post(alice, CHECKOUT, {"plan": pro.id}).headers["Location"]
    desk.stripe.pay(hosted.rpartition("/")[2], "declined")
    shows(page(alice), "No plan yet")
    answer = alice.browser.get("/profile/plan/not-started", follow_redirects=True)
    shows(answer.text, "You were not charged", "Pricing")
    desk.stripe.fail("/v1/checkout/sessions", status=500, times=9)
    answer = post(alice, CHECKOUT, {"plan": pro.id})
    assert answer.status_code == 502
    shows(answer.text, "Not subscribed", "Stripe did not answer")
    assert post(alice, CHECKOUT, {"plan": "pkg_other"}).status_code == 404
    desk.run(lambda: billing.retire_plan(billing.get_plan(pro.id)))
    assert alice.browser.get(f"{CHECKOUT}?plan={pro.id}").status_code == 404


def test_an_upgrade_is_previewed_and_charged_as_agreed(
    desk: Desk, people: Plans, pro: Plan, alice: Person
) -> None:
    best = people.offer("Max", 10_000)
    assert alice.browser.get(f"{CHANGE}?plan={best.id}").headers["Location"] == f"{CHECKOUT}?plan={best.id}"
    people.subscribed(alice, pro)
    shows(page(alice), f"{CHANGE}?plan={best.id}")
    found = page(alice, f"{CHANGE}?plan={best.id}")
    shows(found, "Change to Max", "replaces Pro", "Due now", "Keep Pro", "If the payment fails")
    [agreed] = re.findall(r'name="proration_date" value="(\d+)"', found)
    [due] = re.findall(r"Pay \$([\d.]+) and change", found)
    answer = post(alice, CHANGE, {"plan": best.id, "proration_date": agreed})
    assert answer.headers["Location"] == PAGE
    assert people.subscription(alice).plan_id == best.id
    assert {each.amount_cents for each in people.invoices(alice)} == {2_000, round(float(due) * 100)}
    found = page(alice)
    shows(found, "Max is active.", f"${due}")

    again = post(alice, CHANGE, {"plan": best.id, "proration_date": agreed})
    assert again.headers["Location"] == PAGE
    shows(page(alice), "You have the plan Max already")
    for data, status, phrase in (
        ({"plan": pro.id, "proration_date": "1600000000"}, 409, "Look at them again"),
        ({"plan": pro.id, "proration_date": "x"}, 422, "incomplete"),
        ({"plan": "pkg_other", "proration_date": agreed}, 404, "no such plan"),
    ):
        answer = post(alice, CHANGE, data)
        assert answer.status_code == status
        shows(answer.text, phrase)
    assert people.subscription(alice).plan_id == best.id


def test_a_declined_upgrade_changes_nothing_and_shows_the_error(
    desk: Desk, people: Plans, pro: Plan, alice: Person
) -> None:
    best = people.offer("Max", 10_000)
    people.subscribed(alice, pro)
    desk.stripe.change_card(people.at_stripe(alice)["default_payment_method"], "insufficient_funds")
    [agreed] = re.findall(r'name="proration_date" value="(\d+)"', page(alice, f"{CHANGE}?plan={best.id}"))
    answer = post(alice, CHANGE, {"plan": best.id, "proration_date": agreed})
    assert answer.status_code == 402
    shows(answer.text, "Not changed", "insufficient funds", "Your plan has not changed")
    assert people.subscription(alice).plan_id == pro.id


def test_an_upgrade_that_requires_confirmation_redirects_to_stripe(
    desk: Desk, people: Plans, pro: Plan, alice: Person
) -> None:
    best = people.offer("Max", 10_000)
    people.subscribed(alice, pro)
    desk.stripe.change_card(people.at_stripe(alice)["default_payment_method"], "authentication_required")
    [agreed] = re.findall(r'name="proration_date" value="(\d+)"', page(alice, f"{CHANGE}?plan={best.id}"))
    answer = post(alice, CHANGE, {"plan": best.id, "proration_date": agreed})
    assert answer.status_code == 303
    hosted = answer.headers["Location"]
    assert hosted.startswith(desk.stripe.url)
    shows(page(alice), "Pro", "A change of plan requires your confirmation", f'href="{hosted}"')
    assert people.subscription(alice).plan_id == pro.id


def test_a_downgrade_waits_and_can_be_undone(desk: Desk, people: Plans, pro: Plan, alice: Person) -> None:
    basic = people.offer("Basic", 500)
    people.subscribed(alice, pro)
    found = page(alice, f"{CHANGE}?plan={basic.id}")
    shows(found, "Nothing is charged today", "You keep Pro until", "Due on", "$5.00")
    [agreed] = re.findall(r'name="proration_date" value="(\d+)"', found)
    assert post(alice, CHANGE, {"plan": basic.id, "proration_date": agreed}).status_code == 303
    shows(page(alice), "Basic starts on", "Changes to Basic on", "Keep Pro")
    assert people.subscription(alice).scheduled_plan_id == basic.id
    assert post(alice, f"{CHANGE}/removal").headers["Location"] == PAGE
    found = page(alice)
    shows(found, "The change is undone.")
    hides(found, "Changes to Basic")
    post(alice, f"{CHANGE}/removal")
    shows(page(alice), "No change of plan is scheduled.")


def test_a_plan_is_cancelled_after_confirmation_and_resumed(
    desk: Desk, people: Plans, pro: Plan, alice: Person
) -> None:
    page(alice, CANCEL, status=404)
    people.subscribed(alice, pro)
    for headers in ({}, HTMX):
        shows(page(alice, CANCEL, headers=headers), "Cancel Pro?", "It does not renew")
    hides(page(alice, CANCEL, headers=HTMX), "<html")
    post(alice, CANCEL)
    found = page(alice)
    shows(found, "The plan is cancelled.", "Ends on", "Resume Pro")
    hides(found, CANCEL, "Change plan")
    post(alice, RESUME)
    found = page(alice)
    shows(found, "The plan continues.", "Renews")
    hides(found, "Ends on")
    post(alice, CANCEL)
    people.pass_days(32)
    shows(page(alice), "No plan yet", "$20.00")
    post(alice, RESUME)
    shows(page(alice), "No active subscription found.")


def test_windows_show_usage_and_the_fallback_is_saved(
    desk: Desk, people: Plans, pro: Plan, alice: Person
) -> None:
    people.subscribed(alice, pro)
    fragment = page(alice, headers=HTMX)
    shows(fragment, 'id="allowances"', 'hx-trigger="every 30s"', "0 of 350 credits")
    hides(fragment, "<html")
    answer = post(alice, FALLBACK, {"fallback": "1"}, headers=HTMX)
    assert answer.status_code == 200
    shows(answer.text, "Saved", " checked")
    hides(answer.text, "<html")
    db.session.rollback()
    assert db.session.get_one(User, alice.id).fallback_to_a_la_carte
    assert post(alice, FALLBACK).headers["Location"] == PAGE
    db.session.rollback()
    assert not db.session.get_one(User, alice.id).fallback_to_a_la_carte


def test_a_failed_renewal_shows_a_notice_with_a_payment_link(
    desk: Desk, people: Plans, pro: Plan, alice: Person
) -> None:
    people.subscribed(alice, pro)
    desk.stripe.change_card(people.at_stripe(alice)["default_payment_method"], "insufficient_funds")
    people.pass_days(31)
    assert people.subscription(alice).status == "past_due"
    invoice = billing.unpaid_invoice(people.subscription(alice))
    assert invoice is not None
    found = page(alice)
    shows(
        found,
        "Payment failed",
        "The payment of the renewal failed",
        f'href="{invoice.hosted_invoice_url}"',
        "Unpaid",
    )
    found = page(alice, f"{CHANGE}?plan={people.offer('Max', 9_000).id}", status=409)
    shows(found, "Not changed", "Pay it before you change the plan")


def test_the_number_of_queries_does_not_grow_with_plans(
    desk: Desk, people: Plans, pro: Plan, alice: Person
) -> None:
    people.subscribed(alice, pro)
    queries: list[str] = []
    counts = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        queries.append(statement)

    with desk.app.app_context():
        engine = db.engine
    page(alice)
    for number in range(3):
        people.offer(f"Plan {number}", 3_000 + number, windows=WINDOWS)
        event.listen(engine, "before_cursor_execute", note)
        queries.clear()
        page(alice)
        page(alice, PRICING)
        counts.append(len(queries))
        event.remove(engine, "before_cursor_execute", note)
    assert counts[0] == counts[2] <= 25


def test_strangers_and_the_anonymous_change_nothing(
    desk: Desk, people: Plans, pro: Plan, alice: Person, mallory: Person, anonymous: Person
) -> None:
    people.subscribed(alice, pro)
    basic = people.offer("Basic", 500)
    routes = [
        (CHECKOUT, {"plan": pro.id}),
        (CHANGE, {"plan": basic.id, "proration_date": "1"}),
        (f"{CHANGE}/removal", {}),
        (CANCEL, {}),
        (RESUME, {}),
        (FALLBACK, {"fallback": "1"}),
    ]
    for path, data in routes:
        assert "/login" in post(anonymous, path, data).headers["Location"]
        assert alice.browser.post(path, data=data).status_code in (400, 403)  # no CSRF token
        post(mallory, path, data)
    for path in (PAGE, f"{CHECKOUT}?plan={pro.id}", f"{CHANGE}?plan={basic.id}", CANCEL, STARTED):
        assert "/login" in anonymous.browser.get(path).headers["Location"]
    hides(page(mallory), "Active", "$20.00</td>")
    same = people.subscription(alice)
    assert (same.plan_id, same.scheduled_plan_id, same.cancel_at_period_end) == (pro.id, None, False)
    db.session.rollback()
    assert not db.session.get_one(User, alice.id).fallback_to_a_la_carte
    assert desk.session.scalar(text("SELECT count(*) FROM subscription")) == 1
