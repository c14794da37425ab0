"""Plan management by operators, on pages and by JSON: a warning before a new version, access control."""

from typing import Any

import pytest
from werkzeug.test import TestResponse

from models import billing
from models.billing import NewPlan, Plan, Subscription, WindowLimit
from models.core.audit_log import AuditLog
from models.core.db import db
from tests import factories
from tests.factories import Person, save

PLANS = "/admin/plans"
JSON = "/api/admin/plans"
FORM = {
    "name": "Pro",
    "description": "For daily work",
    "price": "19.99",
    "interval": "month",
    "window_name_0": "5 hours",
    "window_hours_0": "5",
    "window_credits_0": "350",
    "window_name_2": "Month",
    "window_credits_2": "14,000",
    "included_credits": "1000",
    "models": "openai/*\n\n anthropic/* ",
    "requests_per_minute": "60",
    "seats": "",
    "features": "Priority support",
    "tier": "100",
    "sort": "-1",
    "public": "1",
}
BODY = {"name": "Pro", "price_minor": 1999, "interval": "month"}


def post(who: Person, path: str, data: dict[str, Any], **more: Any) -> TestResponse:
    token = (who.browser.get("/api/auth/csrf").json or {}).get("csrfToken", "")
    return who.browser.post(path, data={"csrf_token": token} | data, **more)


def made(**changes: Any) -> Plan:
    terms: dict[str, Any] = {"name": "Pro", "price_cents": 1999, "windows": [WindowLimit("5 hours", 5, 350)]}
    plan = billing.create_plan(NewPlan(**terms | changes))
    db.session.commit()
    return plan


def subscribed(who: Person, plan: Plan, **more: Any) -> Subscription:
    period = factories.now()
    values = {
        "stripe_subscription_id": f"sub_{who.id}",
        "stripe_customer_id": f"cus_{who.id}",
        "stripe_price_id": "price_1",
        "user_id": who.id,
        "plan_id": plan.id,
        "billing_period_start": period,
        "billing_period_end": period,
    }
    return save(Subscription(**values | more))


def test_an_operator_creates_a_plan_with_the_form(root: Person) -> None:
    assert root.browser.get(f"{PLANS}/new").status_code == 200
    answer = post(root, PLANS, FORM)
    assert answer.headers["Location"] == PLANS
    page = root.browser.get(PLANS).text
    for phrase in ("Pro", "$19.99 a month", "1,000", "On the pricing page"):
        assert phrase in page
    [plan] = billing.public_plans()
    assert (plan.price_cents, plan.models, plan.tier, plan.seats, plan.sort) == (
        1999,
        ["openai/*", "anthropic/*"],
        100,
        None,
        -1,
    )
    assert [(each.name, each.hours, each.credits) for each in plan.windows] == [
        ("5 hours", 5, 350),
        ("Month", None, 14_000),
    ]
    assert db.session.query(AuditLog).filter_by(action="plan.created").one().actor == "root@example.org"


def test_invalid_fields_keep_the_input(root: Person) -> None:
    made(name="Taken")
    wrong = {"price": "1e3", "seats": "many", "window_credits_0": "", "window_hours_2": "x"}
    cases: list[tuple[dict[str, str], list[str]]] = [
        (
            wrong,
            [
                "4 fields need",
                "Enter dollars",
                "Enter a whole number.",
                'value="1e3"',
                'value="many"',
                'value="5"',
            ],
        ),
        ({"name": "", "price": "0.10"}, ["Enter a name.", 'id="price-e"', "Use 0, or 50"]),
        ({"window_credits_2": "1"}, ["would never be used up"]),
        ({"name": "Taken"}, ["active plan named Taken"]),
    ]
    for changes, phrases in cases:
        answer = post(root, PLANS, FORM | changes, headers={"HX-Request": "true"})
        assert answer.status_code == 422
        assert "<html" not in answer.text
        for phrase in phrases:
            assert phrase in answer.text, (changes, phrase)
    assert [plan.name for plan in billing.public_plans()] == ["Taken"]


def test_a_new_version_needs_confirmation(root: Person, alice: Person) -> None:
    assert post(root, PLANS, FORM).status_code == 303
    [plan] = billing.public_plans()
    subscribed(alice, plan)
    path = f"{PLANS}/{plan.id}"
    page = root.browser.get(path).text
    for phrase in ("alice@example.org", 'value="19.99"', 'value="350"', "Priority support"):
        assert phrase in page

    shown = FORM | {"description": "For every day", "features": "Now with more"}
    answer = post(root, path, shown)
    assert answer.headers["Location"] == path
    assert "For every day" in root.browser.get(path).text

    dearer = shown | {"price": "25"}
    answer = post(root, path, dearer)
    assert answer.status_code == 422
    for phrase in ("This creates version 2", "1 subscriber keeps version 1", "Save as version 2"):
        assert phrase in answer.text
    db.session.rollback()
    assert [each.version for each in billing.public_plans()] == [1]

    answer = post(root, path, dearer | {"next_version": "2"})
    assert answer.status_code == 303
    db.session.rollback()
    [newer] = billing.public_plans()
    assert (newer.version, newer.price_cents) == (2, 2500)
    assert answer.headers["Location"] == f"{PLANS}/{newer.id}"
    old = root.browser.get(path).text
    for phrase in ("Version 1 is retired", "alice@example.org"):
        assert phrase in old
    listed = root.browser.get(PLANS).text
    assert "$25.00 a month" in listed
    assert "Retired" in listed


def test_retiring_needs_confirmation_and_keeps_subscribers(root: Person, alice: Person) -> None:
    plan = made()
    subscribed(alice, plan)
    path = f"{PLANS}/{plan.id}/retirement"
    for headers in ({}, {"HX-Request": "true"}):
        assert "1 subscriber keeps it" in root.browser.get(path, headers=headers).text
    assert post(root, path, {}).headers["Location"] == PLANS
    db.session.rollback()
    assert billing.public_plans() == []
    assert "alice@example.org" in root.browser.get(f"{PLANS}/{plan.id}").text


def test_long_lists_have_pages(root: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("views.admin.pages.plan_admin.PAGE", 1)
    first = made()
    for name in ("bob", "carol"):
        subscribed(factories.person(root.browser.application, name), first)
    page = root.browser.get(f"{PLANS}/{first.id}").text
    more = page.split(f'href="{PLANS}/{first.id}?before=')[1].split('"')[0]
    assert "carol@example.org" in page
    assert "bob@example.org" not in page
    rest = root.browser.get(f"{PLANS}/{first.id}?before={more}", headers={"HX-Request": "true"}).text
    assert "bob@example.org" in rest
    assert "Load more" not in rest
    assert "bob@example.org" in root.browser.get(f"{PLANS}/{first.id}?before={more}").text
    assert root.browser.get(f"{PLANS}/{first.id}?before=x").status_code == 422

    for cents in (2000, 3000):
        billing.update_plan(billing.public_plans()[0], {"price_cents": cents})
        db.session.commit()
    page = root.browser.get(PLANS).text
    assert "$20.00" in page
    more = page.split(f'href="{PLANS}?before=')[1].split('"')[0]
    assert "$19.99" in root.browser.get(f"{PLANS}?before={more}").text


def test_the_management_routes(root: Person, anonymous: Person) -> None:
    windows = [{"name": "week", "hours": 168, "credits": 700}, {"name": "5 hours", "hours": 5, "credits": 70}]
    answer = root.browser.post(JSON, json=BODY | {"windows": windows, "features": ["Fast"], "tier": 200})
    assert answer.status_code == 201
    plan: Any = answer.json
    assert plan["id"].startswith("pkg_")
    assert [each["name"] for each in plan["windows"]] == ["5 hours", "week"]
    assert (plan["version"], plan["price_minor"], plan["models"], plan["active"]) == (1, 1999, None, True)

    one = f"{JSON}/{plan['id']}"
    same: Any = root.browser.patch(one, json={"public": False, "description": "Secret"}).json
    assert (same["id"], same["public"]) == (plan["id"], False)
    assert anonymous.browser.get("/api/v1/plans").json == {"plans": []}
    root.browser.patch(one, json={"public": True})
    newer: Any = root.browser.patch(one, json={"price_minor": 2999, "requests_per_minute": 10}).json
    assert (newer["version"], newer["price_minor"], newer["windows"]) == (2, 2999, plan["windows"])
    assert newer["id"] != plan["id"]
    assert anonymous.browser.get("/api/v1/plans").json == {"plans": [newer]}
    old: Any = anonymous.browser.get(f"/api/v1/plans/{plan['id']}").json
    assert (old["active"], old["price_minor"]) == (False, 1999)

    assert root.browser.patch(one, json={"price_minor": 1}).status_code == 409
    assert root.browser.post(JSON, json=BODY).status_code == 409
    for _ in range(2):
        assert root.browser.delete(f"{JSON}/{newer['id']}").json == {
            **newer,
            "active": False,
            "updated_at": root.browser.get(f"/api/v1/plans/{newer['id']}").json["updated_at"],
        }
    assert anonymous.browser.get("/api/v1/plans").json == {"plans": []}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": None}, "name"),
        ({"price_minor": 10}, "price_minor: Use 0, or 50"),
        ({"price_minor": 19.5}, "price_minor"),
        ({"interval": "week"}, "interval"),
        ({"active": False}, "active"),
        ({"id": "pkg_mine"}, "id"),
        ({"windows": [{"name": "w", "credits": 0}]}, "windows"),
        ({"windows": [{"name": "w", "credits": 1, "used": 1}]}, "used"),
        ({"features": ["x"] * 31}, "features"),
    ],
)
def test_invalid_bodies_store_nothing(root: Person, change: dict[str, Any], message: str) -> None:
    answer = root.browser.post(JSON, json=BODY | change)
    assert answer.status_code == 422
    error = answer.json["error"]  # type: ignore[index]
    assert error["code"] == "validation_error"
    assert message in f"{error['message']} {error['details']}"
    assert billing.listed_plans() == []


def test_only_operators_can_manage_plans(root: Person, alice: Person, anonymous: Person) -> None:
    plan = made()
    one, page = f"{JSON}/{plan.id}", f"{PLANS}/{plan.id}"
    for who, status, shown in ((anonymous, 401, 302), (alice, 403, 403)):
        for method, path, body in (("post", JSON, BODY), ("patch", one, {"sort": 1}), ("delete", one, None)):
            assert getattr(who.browser, method)(path, json=body).status_code == status
        for path in (PLANS, f"{PLANS}/new", page, f"{page}/retirement"):
            assert who.browser.get(path).status_code == shown
        for path in (PLANS, page, f"{page}/retirement"):
            assert post(who, path, FORM).status_code in (303, 403)
    assert root.browser.patch(f"{JSON}/pkg_other", json={}).status_code == 404
    assert root.browser.get(f"{PLANS}/pkg_other").status_code == 404
    db.session.rollback()
    [same] = billing.listed_plans()
    assert (same.id, same.sort, same.active) == (plan.id, 0, True)
