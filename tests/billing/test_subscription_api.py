"""GET /api/user/subscription, GET and PATCH /api/user/preferences, and the plan in usage responses (contract A.3)."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.orm import Session

from models import ledger
from models.ledger import Account
from tests import factories
from tests.factories import WINDOWS, Person
from views.web.format import iso

PATH, PREFERENCES = "/api/user/subscription", "/api/user/preferences"


def ago(**span: float) -> datetime:
    return (datetime.now(UTC) - timedelta(**span)).replace(microsecond=0)


def block(person: Person, id: str, used: int, started: datetime, hours: int = 5, size: int = 350) -> None:
    """A block of a subscription of which `used` credits are spent."""
    assert person.user is not None
    factories.grant(
        person.user,
        size,
        "subscription",
        balance=size - used,
        operation_id=f"block-{id}-{started.timestamp():.0f}",
        stripe_subscription_id=id,
        created_at=started,
        expires_at=started + timedelta(hours=hours),
    )


def test_without_a_subscription(alice: Person, anonymous: Person) -> None:
    assert alice.user is not None
    assert alice.browser.get(PATH).json == {"hasSubscription": False, "fallbackToALaCarte": False}
    factories.subscription(alice.user, status="unpaid")
    assert alice.browser.get(PATH).json == {"hasSubscription": False, "fallbackToALaCarte": False}
    for path in (PATH, PREFERENCES):
        answer = anonymous.browser.get(path)
        assert (answer.status_code, answer.json) == (401, {"error": "Unauthorized"})


def test_a_subscription_with_its_windows(alice: Person, anonymous: Person, mallory: Person) -> None:
    assert alice.user is not None
    start = ago(days=10).replace(hour=8)
    plan = factories.plan(*WINDOWS, name="Strong", tier=100)
    larger = factories.plan(*WINDOWS, name="Stronger", tier=None, price_cents=240_000, interval="year")
    made = factories.subscription(alice.user, plan, start=start, scheduled_plan_id=larger.id)
    id = made.stripe_subscription_id
    expected: dict[str, Any] = {
        "hasSubscription": True,
        "displayName": "Strong",
        "subscription": {
            "id": id,
            "status": "active",
            "billingPeriodEnd": iso(start + timedelta(days=30)),
            "cancelAtPeriodEnd": False,
            "canceledAt": None,
            "tier": 100,
            "scheduledTier": 200,
        },
        "rateLimit": {
            "limited": False,
            "canStartNewBlock": True,
            "weeklyUsed": 0,
            "weeklyLimit": 3500,
            "weeklyResetsAt": iso(start.replace(hour=0, minute=0, second=0) + timedelta(days=14)),
            "weeklyPercentUsed": 0,
        },
        "limits": {"creditsPerBlock": 350, "blockDurationHours": 5, "weeklyCreditsLimit": 3500},
        "fallbackToALaCarte": False,
    }
    assert alice.browser.get(PATH).json == expected
    block(alice, id, 350, started := ago(hours=1))
    expected["rateLimit"] |= {
        "limited": True,
        "reason": "block_exhausted",
        "canStartNewBlock": False,
        "blockUsed": 350,
        "blockLimit": 350,
        "blockResetsAt": iso(started + timedelta(hours=5)),
        "weeklyUsed": 350,
        "weeklyPercentUsed": 10,
    }
    assert anonymous.browser.get(PATH, headers=alice.headers).json == expected
    assert mallory.browser.get(PATH).json["hasSubscription"] is False


@pytest.mark.parametrize(
    ("windows", "used", "rate", "limits"),
    [
        # a used-up longer window replaces the week
        (
            [("5 hours", 5, 350), ("Week", 168, 3_500), ("Month", None, 350)],
            350,
            {"limited": True, "reason": "weekly_limit", "weeklyLimit": 350, "weeklyPercentUsed": 100},
            {"creditsPerBlock": 350, "weeklyCreditsLimit": 350},
        ),
        (
            [("Month", None, 400)],
            100,
            {"limited": False, "blockUsed": 100, "blockLimit": 400, "weeklyLimit": 0},
            {"creditsPerBlock": 400, "blockDurationHours": 720, "weeklyCreditsLimit": 0},
        ),
        (
            [],
            0,
            {"limited": False, "canStartNewBlock": False, "weeklyUsed": 0, "weeklyPercentUsed": 0},
            {"creditsPerBlock": 0, "blockDurationHours": 0, "weeklyCreditsLimit": 0},
        ),
    ],
)
def test_plans_with_other_windows(
    alice: Person, windows: Any, used: int, rate: dict[str, Any], limits: dict[str, Any]
) -> None:
    assert alice.user is not None
    made = factories.subscription(alice.user, factories.plan(*windows))
    if used:
        block(alice, made.stripe_subscription_id, used, ago(hours=1))
    answer = alice.browser.get(PATH).json
    assert answer["rateLimit"].items() >= rate.items()
    assert answer["limits"].items() >= limits.items()


def test_preferences_are_saved(alice: Person, mallory: Person, session: Session) -> None:
    assert alice.browser.get(PREFERENCES).json == {"fallbackToALaCarte": False}
    answer = alice.browser.patch(PREFERENCES, json={"fallbackToALaCarte": True})
    assert (answer.status_code, answer.json) == (200, {"success": True, "fallbackToALaCarte": True})
    assert alice.browser.get(PREFERENCES).json == {"fallbackToALaCarte": True}
    assert alice.browser.get(PATH).json["fallbackToALaCarte"] is True
    assert mallory.browser.get(PREFERENCES).json == {"fallbackToALaCarte": False}


def test_preferences_by_key(alice: Person, anonymous: Person) -> None:
    answer = anonymous.browser.patch(PREFERENCES, json={"fallbackToALaCarte": True}, headers=alice.headers)
    assert answer.json == {"success": True, "fallbackToALaCarte": True}
    assert alice.browser.get(PREFERENCES).json == {"fallbackToALaCarte": True}


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("{}", "No updates provided"),
        ('{"other": true}', "No updates provided"),
        ("{", "Invalid JSON body"),
        ("", "Invalid JSON body"),
        ('{"fallbackToALaCarte": "yes"}', "Invalid request body"),
        ('{"fallbackToALaCarte": null}', "Invalid request body"),
        ("[]", "Invalid request body"),
    ],
)
def test_invalid_preferences_are_400(alice: Person, anonymous: Person, body: str, error: str) -> None:
    answer = alice.browser.patch(PREFERENCES, data=body, content_type="application/json")
    assert (answer.status_code, answer.json["error"]) == (400, error)
    answer = anonymous.browser.patch(PREFERENCES, data=body, content_type="application/json")
    assert (answer.status_code, answer.json) == (401, {"error": "Unauthorized"})


def test_usage_hides_blocks_and_names_the_subscription(alice: Person) -> None:
    assert alice.user is not None
    factories.grant(alice.user, 100, "purchase")
    factories.grant(alice.user, 40, "plan")
    assert "subscription" not in alice.browser.get("/api/user/usage").json
    made = factories.subscription(alice.user)
    block(alice, made.stripe_subscription_id, 50, ago(hours=1))
    factories.hold(alice.user, 60, funding="plan")
    factories.hold(alice.user, 10, funding="any")
    usage = alice.browser.get("/api/user/usage").json
    assert usage["subscription"] == {
        "status": "active",
        "billingPeriodEnd": iso(made.billing_period_end),
        "cancelAtPeriodEnd": False,
    }
    assert usage["balance"]["totalRemaining"] == 140
    assert usage["balance"]["breakdown"] == {
        **{"free": 0, "referral": 0, "purchase": 100, "admin": 0, "organization": 0},
        "plan": 40,
    }
    answer = alice.browser.post("/api/v1/usage", json={"fingerprintId": "x"}, headers=alice.headers).json
    assert answer["remainingBalance"] == 140
    current = ledger.balance(Account(user_id=alice.id))
    assert (current.held, current.available, current.calls_in_progress) == (0, 140, 1)
    # the statement shows the ledger's entries and their sum
    page = re.sub(r"<[^>]*>|\s", " ", alice.browser.get("/profile?tab=statement").text)
    page = re.sub(r" +", " ", page)
    assert "Settled 140 credits the sum of all entries without your plan’s block" in page
    assert "Your plan’s block 300 credits" in page
    assert "In your plan’s block −300 Settled 140" in page
