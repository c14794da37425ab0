"""GET /api/user/usage and POST /api/v1/usage (contract 2.2, 2.9, 3.3, 3.6)."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from models.accounts import User
from models.ledger import Account, CreditLedger, charge
from models.orgs import Org
from tests import factories
from tests.factories import Person

UNKNOWN_TOKEN = {
    "message": "Invalid auth token. You may have been logged out from the web portal. Please log in again."
}
ZERO_BREAKDOWN = {"free": 0, "referral": 0, "purchase": 0, "admin": 0, "organization": 0}


def post_usage(person: Person, body: Any, **headers: str) -> Any:
    """POST as the command line client does: JSON as text/plain."""
    data = body if isinstance(body, str | bytes) else json.dumps(body)
    return person.browser.post(
        "/api/v1/usage", data=data, content_type="text/plain;charset=UTF-8", headers=headers
    )


def in_ten_days() -> datetime:
    return (datetime.now(UTC) + timedelta(days=10)).replace(hour=8, minute=30, second=15, microsecond=123_000)


# -- POST /api/v1/usage --------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", ["", "{", "not json", "[1,", b"\xff\xfe", '{"fingerprintId": NaN}'])
def test_invalid_json_is_rejected_before_the_key_is_checked(anonymous: Person, body: Any) -> None:
    answer = post_usage(anonymous, body)
    assert answer.status_code == 400
    assert answer.json == {"message": "Invalid JSON in request body"}


@pytest.mark.parametrize(
    ("body", "path", "message"),
    [
        ({}, ["fingerprintId"], "Invalid input: expected string, received undefined"),
        ({"fingerprintId": 5}, ["fingerprintId"], "Invalid input: expected string, received number"),
        (
            {"fingerprintId": "x", "authToken": 1},
            ["authToken"],
            "Invalid input: expected string, received number",
        ),
        ({"fingerprintId": "x", "orgId": None}, ["orgId"], "Invalid input: expected string, received null"),
        ([], [], "Invalid input: expected object, received array"),
        ("null", [], "Invalid input: expected object, received null"),
    ],
)
def test_a_wrong_body_is_refused_with_its_issues(
    anonymous: Person, body: Any, path: list[str], message: str
) -> None:
    answer = post_usage(anonymous, body)
    assert answer.status_code == 400
    assert answer.json["message"] == "Invalid request body"
    assert answer.json["issues"][0]["path"] == path
    assert answer.json["issues"][0]["message"] == message


def test_no_token_anywhere(anonymous: Person) -> None:
    for body in ({"fingerprintId": "cli-usage"}, {"fingerprintId": "cli-usage", "authToken": ""}):
        answer = post_usage(anonymous, body)
        assert (answer.status_code, answer.json) == (401, {"message": "Authentication required"})


def test_the_cookie_is_no_key(alice: Person) -> None:
    assert post_usage(alice, {"fingerprintId": "cli-usage"}).status_code == 401


@pytest.mark.parametrize("token", ["wrong", "cb-pat-" + "0" * 64, "ключ", "a" * 10_000])
def test_an_unknown_token(anonymous: Person, token: str) -> None:
    answer = post_usage(anonymous, {"fingerprintId": "cli-usage", "authToken": token})
    assert (answer.status_code, answer.json) == (401, UNKNOWN_TOKEN)


def test_an_expired_token(session: Session, alice: Person, anonymous: Person) -> None:
    assert alice.user is not None
    old = factories.token(alice.user, expires=datetime.now(UTC) - timedelta(seconds=1))
    answer = post_usage(anonymous, {"fingerprintId": "cli-usage", "authToken": old})
    assert (answer.status_code, answer.json) == (401, UNKNOWN_TOKEN)


@pytest.mark.parametrize("kind", ["pat", "cli", "web"])
def test_the_key_may_come_in_a_header_or_in_the_body(
    session: Session, alice: Person, anonymous: Person, kind: str
) -> None:
    assert alice.user is not None
    key = factories.token(alice.user, type=kind)
    by_body = post_usage(anonymous, {"fingerprintId": "cli-usage", "authToken": key})
    by_bearer = post_usage(anonymous, {"fingerprintId": "cli-usage"}, Authorization=f"Bearer {key}")
    by_header = post_usage(anonymous, {"fingerprintId": "cli-usage"}, **{"x-codebuff-api-key": key})
    assert by_body.status_code == by_bearer.status_code == by_header.status_code == 200
    assert by_body.json == by_bearer.json == by_header.json


def test_the_header_wins_over_the_body(
    session: Session, alice: Person, mallory: Person, anonymous: Person
) -> None:
    assert alice.user is not None
    factories.grant(alice.user, 700, "purchase")
    body = {"fingerprintId": "cli-usage", "authToken": mallory.token}
    assert post_usage(anonymous, body, **alice.headers).json["remainingBalance"] == 700
    assert post_usage(anonymous, body, Authorization="Bearer nonsense").status_code == 401


def test_the_complete_personal_response(session: Session, alice: Person, anonymous: Person) -> None:
    assert alice.user is not None
    reset = in_ten_days()
    session.get_one(User, alice.id).next_quota_reset = reset
    session.get_one(User, alice.id).auto_topup_enabled = True
    session.commit()
    factories.grant(alice.user, 500, "free", balance=500, expires_at=reset)
    factories.grant(alice.user, 300, "purchase", balance=300)
    charge(Account(user_id=alice.id), 120, cause="test")
    session.commit()
    answer = post_usage(anonymous, {"fingerprintId": "cli-usage", "extra": 1}, **alice.headers)
    assert answer.status_code == 200
    assert answer.json == {
        "type": "usage-response",
        "usage": 120,
        "remainingBalance": 680,
        "balanceBreakdown": {**ZERO_BREAKDOWN, "free": 380, "purchase": 300},
        "next_quota_reset": f"{reset:%Y-%m-%d}T08:30:15.123Z",
        "autoTopupEnabled": True,
    }


def test_members_get_the_balance_of_their_organisation(
    session: Session, alice: Person, bob: Person, mallory: Person, anonymous: Person, acme: Org
) -> None:
    assert alice.user is not None
    factories.grant(alice.user, 900, "organization", org_id=acme.id, balance=850)
    body = {"fingerprintId": "cli-usage", "orgId": acme.id}
    for member in (alice, bob):
        assert post_usage(anonymous, body, **member.headers).json == {
            "type": "usage-response",
            "usage": 50,
            "remainingBalance": 850,
            "balanceBreakdown": {},
            "next_quota_reset": None,
        }
    outsider = post_usage(anonymous, body, **mallory.headers)
    assert outsider.status_code == 200
    assert outsider.json["balanceBreakdown"].keys() == ZERO_BREAKDOWN.keys()
    assert outsider.json["remainingBalance"] == 0


@pytest.mark.parametrize("org_id", ["", "no-such-org", "x" * 5000, "' OR 1=1 --"])
def test_an_unknown_organisation_falls_back_to_the_personal_balance(
    alice: Person, anonymous: Person, org_id: str
) -> None:
    answer = post_usage(anonymous, {"fingerprintId": "cli-usage", "orgId": org_id}, **alice.headers)
    assert answer.status_code == 200
    assert answer.json["next_quota_reset"] is not None


def test_what_an_organisation_bought_is_not_the_buyers(
    session: Session, alice: Person, anonymous: Person, acme: Org
) -> None:
    assert alice.user is not None
    factories.grant(alice.user, 900, "organization", org_id=acme.id)
    factories.grant(alice.user, 10, "admin")
    answer = post_usage(anonymous, {"fingerprintId": "cli-usage"}, **alice.headers)
    assert answer.json["remainingBalance"] == 10


@pytest.mark.parametrize("method", ["put", "delete", "patch"])
def test_other_methods_are_not_allowed(anonymous: Person, method: str) -> None:
    assert getattr(anonymous.browser, method)("/api/v1/usage").status_code == 405


# -- GET /api/user/usage -------------------------------------------------------------------------------------


def test_the_browser_route_needs_the_cookie(alice: Person, anonymous: Person) -> None:
    for headers in ({}, alice.headers):
        answer = anonymous.browser.get("/api/user/usage", headers=headers)
        assert (answer.status_code, answer.json) == (401, {"error": "Unauthorized"})


def test_the_complete_response_for_the_browser(session: Session, alice: Person) -> None:
    assert alice.user is not None
    reset = in_ten_days()
    session.get_one(User, alice.id).next_quota_reset = reset
    session.commit()
    factories.grant(alice.user, 1000, "free", balance=800, expires_at=reset)
    factories.grant(alice.user, 500, "admin", balance=-100)
    answer = alice.browser.get("/api/user/usage")
    assert answer.status_code == 200
    assert answer.json == {
        "usageThisCycle": 800,
        "balance": {
            "totalRemaining": 700,
            "totalDebt": 0,
            "netBalance": 700,
            "breakdown": {**ZERO_BREAKDOWN, "free": 800},
            "principals": {**ZERO_BREAKDOWN, "free": 1000, "admin": 500},
        },
        "nextQuotaReset": f"{reset:%Y-%m-%d}T08:30:15.123Z",
        "autoTopupTriggered": False,
        "autoTopupEnabled": False,
    }


def test_debt_is_reported(session: Session, alice: Person) -> None:
    assert alice.user is not None
    factories.grant(alice.user, 100, "purchase", balance=-40)
    balance = alice.browser.get("/api/user/usage").json["balance"]
    assert (balance["totalRemaining"], balance["totalDebt"], balance["netBalance"]) == (0, 40, -40)


def test_other_grant_types_are_included_only_if_not_zero(session: Session, alice: Person) -> None:
    assert alice.user is not None
    factories.grant(alice.user, 30, "ad")
    assert alice.browser.get("/api/user/usage").json["balance"]["breakdown"] == {**ZERO_BREAKDOWN, "ad": 30}


@pytest.mark.parametrize(
    "route", ["/api/user/usage", "/api/v1/usage", "/profile?tab=usage", "/profile?tab=statement"]
)
def test_reading_runs_a_due_quota_cycle_once(
    session: Session, alice: Person, anonymous: Person, route: str
) -> None:
    past = datetime.now(UTC) - timedelta(days=3)
    session.get_one(User, alice.id).next_quota_reset = past
    session.commit()
    for _ in range(3):
        if route == "/api/v1/usage":
            answer = post_usage(anonymous, {"fingerprintId": "cli-usage"}, **alice.headers)
        else:
            answer = alice.browser.get(route)
        assert answer.status_code == 200
    session.expire_all()
    assert session.get_one(User, alice.id).next_quota_reset > datetime.now(UTC)  # type: ignore[operator]
    grants = session.scalars(select(CreditLedger).where(CreditLedger.user_id == alice.id)).all()
    assert [(grant.type, grant.principal) for grant in grants] == [("free", 500)]


def test_people_see_their_own(session: Session, alice: Person, mallory: Person) -> None:
    assert alice.user is not None
    factories.grant(alice.user, 123, "purchase")
    assert mallory.browser.get("/api/user/usage").json["balance"]["breakdown"]["purchase"] == 0
