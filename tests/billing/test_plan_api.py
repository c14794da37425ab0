"""JSON routes of subscriptions for browsers and API keys: responses and access control."""

from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from models import billing
from models.billing import Plan, WindowLimit
from tests import factories
from tests.billing.stage import Desk
from tests.billing.subscribers import Plans
from tests.factories import Person

CREATE = "/api/stripe/create-subscription"
CANCEL = "/api/stripe/cancel-subscription"
MINE = "/api/v1/subscriptions"
DETAILS = {"name": "Ada", "line1": "1 Main St", "city": "Oslo", "country": "NO"}


@pytest.fixture
def people(desk: Desk) -> Plans:
    return Plans(desk)


@pytest.fixture
def pro(people: Plans) -> Plan:
    windows = (WindowLimit("5 hours", 5, 350), WindowLimit("week", 168, 3_500))
    return people.offer("Pro", 2_000, tier=100, windows=windows, included_credits=500)


def call(who: Person, method: str, path: str, json: Any = None) -> TestResponse:
    """With the key of a person, and no cookie."""
    client: FlaskClient = who.browser.application.test_client()
    answer: TestResponse = getattr(client, method)(path, json=json, headers=who.headers)
    return answer


def test_a_browser_subscribes_by_tier_and_cancels(
    desk: Desk, people: Plans, pro: Plan, alice: Person
) -> None:
    for body in ({"tier": 300}, {"tier": "100"}, {}):
        answer = alice.browser.post(CREATE, json=body)
        assert answer.status_code == 400
        assert answer.json == {"error": "Invalid tier. Must be one of: 100, 200, 500."}
    assert alice.browser.post(CREATE, data="{").json == {"error": "Invalid JSON body"}
    unsold: Any = alice.browser.post(CREATE, json={"tier": 500})
    assert unsold.status_code == 400
    assert "No plan of tier 500" in unsold.json["details"]
    assert alice.browser.post(CANCEL).status_code == 404
    assert alice.browser.post(CANCEL).json == {"error": "No active subscription found."}

    session: Any = alice.browser.post(CREATE, json={"tier": 100}).json["sessionId"]  # type: ignore[index]
    back = desk.stripe.pay(session, **DETAILS)
    assert f"/profile/plan/started?session_id={session}" in back
    assert "Pro is active" in alice.browser.get(back.removeprefix("http://localhost:8000")).text
    again = alice.browser.post(CREATE, json={"tier": 100})
    assert (again.status_code, again.json) == (409, {"error": "You already have an active subscription."})
    assert people.subscription(alice).plan_id == pro.id

    for _ in range(2):
        assert alice.browser.post(CANCEL).json == {"success": True}
    assert people.subscription(alice).cancel_at_period_end


def test_a_key_subscribes_changes_cancels_and_resumes(
    desk: Desk, people: Plans, pro: Plan, alice: Person
) -> None:
    maximum, basic = people.offer("Max", 10_000), people.offer("Basic", 500)
    assert call(alice, "get", f"{MINE}/me").json is None
    opened: Any = call(
        alice,
        "post",
        f"{MINE}/checkout",
        {"plan_id": pro.id, "success_url": "https://app.example/ok?s={CHECKOUT_SESSION_ID}"},
    ).json
    back = desk.stripe.pay(opened["id"], **DETAILS)
    assert back == f"https://app.example/ok?s={opened['id']}"
    people.deliver_events()
    mine: Any = call(alice, "get", f"{MINE}/me").json
    assert (mine["status"], mine["state"], mine["plan"]["id"]) == ("active", "active", pro.id)
    one = f"{MINE}/{mine['id']}"

    preview: Any = call(alice, "get", f"{one}/change?plan_id={maximum.id}").json
    assert preview["immediate"]
    assert sum(line["amount_minor"] for line in preview["lines"]) == preview["due_minor"] > 7_000
    body = {"plan_id": maximum.id, "proration_date": preview["proration_date"]}
    assert call(alice, "post", f"{one}/change", body).json["plan"]["id"] == maximum.id  # type: ignore[index]
    assert {each.amount_cents for each in people.invoices(alice)} == {2_000, preview["due_minor"]}

    later: Any = call(alice, "post", f"{one}/change", {"plan_id": basic.id}).json
    assert (later["plan"]["id"], later["scheduled_plan_id"]) == (maximum.id, basic.id)
    for at in ({"at": "period_end"}, {}):
        ends: Any = call(alice, "post", f"{one}/cancel", at).json
        assert (ends["cancel_at_period_end"], ends["scheduled_plan_id"]) == (True, None)
    assert call(alice, "post", f"{one}/cancel", {"at": "now"}).status_code == 403
    assert call(alice, "post", f"{one}/change", {"plan_id": basic.id}).status_code == 409
    assert not call(alice, "post", f"{one}/resume").json["cancel_at_period_end"]  # type: ignore[index]

    people.do(alice, billing.cancel)
    people.pass_days(32)
    over: Any = call(alice, "get", f"{MINE}/me").json
    assert (over["status"], over["state"]) == ("canceled", "expired")
    assert call(alice, "post", f"{one}/resume").status_code == 409


def test_a_declined_change_is_402_and_changes_nothing(
    desk: Desk, people: Plans, pro: Plan, alice: Person
) -> None:
    maximum = people.offer("Max", 10_000)
    subscription = people.subscribed(alice, pro)
    method = people.at_stripe(alice)["default_payment_method"]
    desk.stripe.change_card(method, "insufficient_funds")
    one = f"{MINE}/{subscription.stripe_subscription_id}"
    answer: Any = call(alice, "post", f"{one}/change", {"plan_id": maximum.id})
    assert (answer.status_code, answer.json["error"]["code"]) == (402, "card_declined")
    assert people.subscription(alice).plan_id == pro.id


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"plan_id": "pkg_other"}, 404),
        ({"plan_id": 1}, 422),
        ({"org_id": "org_1"}, 422),
        ({"success_url": "javascript:alert(1)"}, 422),
        ({"success_url": "https://"}, 422),
        ({"cancel_url": "/relative"}, 422),
        ({"cancel_url": "http://[x"}, 422),
    ],
)
def test_invalid_bodies_create_no_checkout(
    desk: Desk, pro: Plan, alice: Person, change: dict[str, Any], status: int
) -> None:
    assert call(alice, "post", f"{MINE}/checkout", {"plan_id": pro.id} | change).status_code == status
    assert desk.sim.find("checkout.session") == []


def test_other_accounts_have_no_access(
    desk: Desk, people: Plans, pro: Plan, alice: Person, mallory: Person, anonymous: Person
) -> None:
    subscription = people.subscribed(alice, pro)
    one, other = f"{MINE}/{subscription.stripe_subscription_id}", f"{MINE}/sub_other"
    routes = [
        ("post", "/cancel", {}),
        ("post", "/resume", None),
        ("get", f"/change?plan_id={pro.id}", None),
        ("post", "/change", {"plan_id": pro.id}),
    ]
    for method, path, body in routes:
        mine, unknown = (call(mallory, method, f"{base}{path}", body) for base in (one, other))
        assert mine.status_code == unknown.status_code == 404
        assert mine.json["error"] == unknown.json["error"]  # type: ignore[index]
        assert call(anonymous, method, f"{one}{path}", body).status_code == 401
        # these routes ignore cookies
        assert getattr(alice.browser, method)(f"{one}{path}", json=body).status_code == 401
    assert call(anonymous, "get", f"{MINE}/me").status_code == 401
    assert call(anonymous, "post", f"{MINE}/checkout", {"plan_id": pro.id}).status_code == 401
    assert call(mallory, "get", f"{MINE}/me").json is None
    for path in (CREATE, CANCEL):
        assert anonymous.browser.post(path, json={"tier": 100}).status_code == 401
        foreign = alice.browser.post(path, json={"tier": 100}, headers={"Origin": "https://evil.example"})
        assert foreign.status_code == 403
    same = people.subscription(alice)
    assert (same.plan_id, same.cancel_at_period_end, same.status) == (pro.id, False, "active")


def test_a_key_of_an_organisation_cannot_subscribe(desk: Desk, pro: Plan, alice: Person) -> None:
    assert alice.user
    org = factories.org(alice.user)
    key = {"Authorization": f"Bearer {factories.token(alice.user, org_id=org.id)}"}
    client = desk.app.test_client()
    assert client.get(f"{MINE}/me", headers=key).status_code == 403
    answer = client.post(f"{MINE}/checkout", json={"plan_id": pro.id}, headers=key)
    assert answer.status_code == 403


def test_without_a_stripe_key_nothing_is_sold(people: Plans, pro: Plan, alice: Person) -> None:
    people.desk.app.extensions["stripe"] = None
    assert alice.browser.post(CREATE, json={"tier": 100}).status_code == 503
    assert alice.browser.post(CANCEL).status_code == 503
    assert call(alice, "post", f"{MINE}/checkout", {"plan_id": pro.id}).status_code == 503
    assert call(alice, "get", f"{MINE}/me").json is None
