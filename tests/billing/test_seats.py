"""Subscriptions of organisations: setting up, seats that follow the members, the end; JSON routes and pages."""

from typing import Any

import pytest
from sqlalchemy import text

from models import billing
from models.billing.payments.customers import ensure_customer
from models.core import jobs
from models.core.audit_log import AuditLog
from models.core.db import db
from models.ledger import Account
from models.orgs import Org, OrgMember
from models.orgs.members import members_changed
from tests import factories
from tests.billing.stage import Desk, Obj
from tests.billing.subscribers import Plans
from tests.billing.topups import post
from tests.factories import Person

CAST = {"alice": 200, "carol": 200, "dave": 200, "bob": 403, "mallory": 404, "anonymous": 401}


@pytest.fixture
def price(desk: Desk) -> str:
    """A seat costs $10 a month."""
    params: Any = {
        "currency": "usd",
        "unit_amount": 1000,
        "recurring": {"interval": "month"},
        "product_data": {"name": "Seat"},
    }
    with billing.stripe_api.api_client() as client:
        id = client.v1.prices.create(params).id
    desk.configure(stripe_team_fee_price_id=id)
    return id


def subscribed(desk: Desk, who: Person, org: Org) -> None:
    """Subscribe the organisation by its JSON route and Stripe's page."""
    answer = who.browser.post(f"/api/orgs/{org.id}/billing/setup")
    assert answer.status_code == 200, answer.text
    desk.stripe.pay(answer.json["sessionId"], name="Acme", line1="1 Row", city="Oslo", country="NO")
    Plans(desk).deliver_events()


def sync_queued(desk: Desk) -> int:
    """Run the queued jobs that pay for seats. Returns their number."""
    queued = text("SELECT args->>'org_id' FROM procrastinate_jobs WHERE task_name = 'billing.sync_seats'")
    ids = list(desk.session.scalars(queued))
    desk.session.rollback()
    for id in ids:
        desk.run(jobs.sync_seats, id)
    return len(ids)


def seats_at_stripe(desk: Desk) -> list[Obj]:
    return [
        {"status": each["status"], "seats": each["items"]["data"][0]["quantity"]}
        for each in desk.sim.find("subscription")
    ]


def stored(desk: Desk, org: Org) -> tuple[bool, bool]:
    """Whether the organisation has a subscription, and automatic top-up on."""
    desk.session.rollback()
    row = db.session.get_one(Org, org.id, populate_existing=True)
    return row.stripe_subscription_id is not None, row.auto_topup_enabled


def test_routes_are_for_roles_that_see_billing(
    desk: Desk, price: str, request: pytest.FixtureRequest, acme: Org
) -> None:
    refusals = {
        401: {"error": "Unauthorized"},
        403: {"error": "Insufficient permissions"},
        404: {"error": "Organization not found"},
    }
    for name, expected in CAST.items():
        browser = request.getfixturevalue(name).browser
        for method, path in (
            ("GET", "setup"),
            ("GET", "status"),
            ("DELETE", "subscription"),
            ("POST", "setup"),
        ):
            answer = browser.open(f"/api/orgs/{acme.id}/billing/{path}", method=method)
            if expected == 200:
                missing = method == "DELETE"
                assert answer.status_code == (404 if missing else 200), (name, path, answer.text)
                if missing:
                    assert answer.json == {"error": "No active subscription found"}
            else:
                assert (answer.status_code, answer.json) == (expected, refusals[expected]), (name, path)


def test_organisation_subscribes_pays_for_its_seats_and_ends(
    desk: Desk, price: str, acme: Org, alice: Person
) -> None:
    route = f"/api/orgs/{acme.id}/billing"
    assert alice.browser.get(f"{route}/setup").json == {
        "is_setup": False,
        "organization": {"id": acme.id, "name": "Acme"},
    }
    subscribed(desk, alice, acme)
    assert stored(desk, acme) == (True, True)
    assert alice.browser.get(f"{route}/setup").json["is_setup"] is True
    status = alice.browser.get(f"{route}/status").json
    assert (status["seatCount"], status["pricePerSeat"], status["totalMonthlyCost"]) == (2, 10, 20)
    assert status["hasActiveSubscription"] is True
    assert status["subscriptionDetails"]["status"] == "active"
    assert status["billingPortalUrl"].startswith("http")
    assert alice.browser.post(f"{route}/setup").status_code == 409
    carol = factories.user("carol")
    factories.join(acme, carol.id)
    members_changed.send(acme.id)
    db.session.commit()
    assert sync_queued(desk) == 1
    assert seats_at_stripe(desk) == [{"status": "active", "seats": 3}]
    assert alice.browser.delete(f"{route}/subscription").json == {"success": True}
    assert stored(desk, acme) == (False, False)
    assert seats_at_stripe(desk)[0]["status"] == "canceled"
    status = alice.browser.get(f"{route}/status").json
    assert (status["hasActiveSubscription"], status["subscriptionDetails"]) == (False, None)
    actions = [row.action for row in db.session.query(AuditLog).order_by(AuditLog.id)]
    assert actions == ["subscription.started", "subscription.cancelled"]


def test_deletion_ends_the_subscription(desk: Desk, price: str, acme: Org, alice: Person) -> None:
    subscribed(desk, alice, acme)
    assert alice.browser.delete(f"/api/orgs/{acme.id}").json == {"success": True}
    assert stored(desk, acme) == (True, False)
    jobs.end_seats(org_id=acme.id)
    assert stored(desk, acme) == (False, False)
    assert seats_at_stripe(desk)[0]["status"] == "canceled"
    jobs.end_seats(org_id=acme.id)


def test_service_accounts_take_no_seat(desk: Desk, price: str, acme: Org, alice: Person) -> None:
    factories.join(acme, factories.user("robot").id, "service")
    assert alice.browser.get(f"/api/orgs/{acme.id}/billing/status").json["seatCount"] == 2


def test_lost_events_are_repaired(desk: Desk, price: str, acme: Org, alice: Person) -> None:
    subscribed(desk, alice, acme)
    desk.session.execute(text("UPDATE org SET stripe_subscription_id = NULL"))
    desk.session.execute(text("DELETE FROM org_member WHERE role = 'member'"))
    desk.session.commit()
    desk.run(billing.reconcile)
    assert stored(desk, acme)[0]
    assert seats_at_stripe(desk) == [{"status": "active", "seats": 1}]
    found = desk.run(billing.last_reconciliation)
    assert found is not None


def test_subscription_of_another_customer_changes_nothing(
    desk: Desk, price: str, acme: Org, alice: Person
) -> None:
    stranger = desk.run(ensure_customer, Account(user_id=alice.id))
    desk.stripe.add_card(stranger)
    desk.run(ensure_customer, Account(org_id=acme.id))
    params: Any = {
        "customer": stranger,
        "items": [{"price": price}],
        "metadata": {"organization_id": acme.id},
    }
    with billing.stripe_api.api_client() as client:
        client.v1.subscriptions.create(params)
    Plans(desk).deliver_events()
    assert stored(desk, acme)[0] is False
    assert any("customer is not the organisation's" in each for each in desk.ignored())


def test_without_a_price_billing_is_set_up_by_saving_a_card(desk: Desk, acme: Org, alice: Person) -> None:
    route = f"/api/orgs/{acme.id}"
    session = alice.browser.post(f"{route}/billing/setup").json["sessionId"]
    desk.stripe.pay(session)
    desk.work()
    assert alice.browser.get(f"{route}/billing/setup").json["is_setup"] is True
    assert alice.browser.get(f"{route}/billing/status").json["pricePerSeat"] == 0
    assert "Seats" not in alice.browser.get("/orgs/acme/billing").text
    assert alice.browser.get("/orgs/acme/billing/seats").status_code == 404
    answer = alice.browser.post(f"{route}/credits", json={"amount": 5000})
    assert answer.status_code == 200, answer.text


def test_pages_subscribe_and_end(desk: Desk, price: str, acme: Org, alice: Person, bob: Person) -> None:
    page = alice.browser.get("/orgs/acme/billing").text
    assert "Subscribe first" in page
    assert alice.browser.get("/orgs/acme/billing/purchase?amount=10000").status_code == 403
    answer = post(alice.browser, "/orgs/acme/billing/seats")
    assert answer.status_code == 303
    subscribed(desk, alice, acme)
    seats = alice.browser.get("/orgs/acme/billing/seats").text
    assert "$20.00" in seats
    assert "Renews" in seats
    assert "Subscribe first" not in alice.browser.get("/orgs/acme/billing").text
    assert "It ends now" in alice.browser.get("/orgs/acme/billing/seats/end").text
    assert post(alice.browser, "/orgs/acme/billing/seats/end").status_code == 303
    assert stored(desk, acme) == (False, False)
    assert bob.browser.get("/orgs/acme/billing/seats").status_code == 403
    assert post(bob.browser, "/orgs/acme/billing/seats/end").status_code == 403


def test_removed_member_frees_a_seat_once(
    desk: Desk, price: str, acme: Org, alice: Person, bob: Person
) -> None:
    subscribed(desk, alice, acme)
    for _ in range(2):
        db.session.query(OrgMember).filter_by(user_id=bob.id).delete()
        members_changed.send(acme.id)
        db.session.commit()
    assert sync_queued(desk) == 2
    assert seats_at_stripe(desk) == [{"status": "active", "seats": 1}]
