"""Usage, alerts and runs of organisations: who may open which page and route, and what they see."""

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from flask import Flask
from sqlalchemy.orm import Session as OrmSession
from werkzeug.test import TestResponse

from models.accounts.credentials import hash_token
from models.core.db import db, now
from models.ledger import Account, budgets
from models.orgs import Org, OrgAlert, OrgWebhook, WebhookDelivery, edit_org, raise_alert
from models.orgs.webhooks import add_webhook, enqueue_delivery
from models.usage import Message, org_usage
from tests import factories
from tests.factories import Person
from tests.usage.test_usage_pages import recorded_statements

MEMBERS = ("alice", "carol", "bob", "dave")
ADMINS = ("alice", "carol")


@pytest.fixture
def calls(acme: Org, alice: Person, bob: Person, carol: Person) -> dict[str, str]:
    """A run with a call of each of alice, bob and carol an hour ago; the run ids by person."""
    factories.account(acme)
    runs = {}
    at = max(now() - timedelta(minutes=30), now().replace(day=1, hour=0, minute=0, second=0, microsecond=0))
    with factories.one_commit():
        for credits, (name, person) in zip(
            (30, 20, 10), {"alice": alice, "bob": bob, "carol": carol}.items(), strict=True
        ):
            assert person.user
            run = factories.run(person.user, org_id=acme.id)
            message = factories.message(
                person.user,
                id=f"gen-{name}",
                org_id=acme.id,
                finished_at=at,
                credits=credits,
                cost=Decimal("0.1"),
                client_request_id=run.id,
                repo_url="https://github.com/acme/=api",
                model=f"north/{name}",
            )
            factories.call(
                person.user,
                message=message,
                run_id=run.id,
                account_id=acme.id,
                request_id=f"req-{name}",
                model=f"north/{name}",
            )
            runs[name] = run.id
    return runs


def statuses(cast: dict[str, Person], url: str) -> dict[str, int]:
    return {name: person.browser.get(url).status_code for name, person in cast.items()}


def post(person: Person, path: str, /, **data: object) -> TestResponse:
    token = (person.browser.get("/api/auth/csrf").json or {})["csrfToken"]
    return person.browser.post(path, data={"csrf_token": token, **data})


def posted(cast: dict[str, Person], path: str, /, **data: object) -> dict[str, int]:
    return {name: post(person, path, **data).status_code for name, person in cast.items()}


def by_role(allowed: tuple[str, ...], ok: int, anonymous: int) -> dict[str, int]:
    """Of members others are forbidden; outsiders get 404."""
    found = {name: ok if name in allowed else 403 for name in MEMBERS}
    return found | {"mallory": 404, "anonymous": anonymous}


def test_who_may_read(acme: Org, cast: dict[str, Person], calls: dict[str, str]) -> None:
    add_webhook(acme.id, "https://example.org/hook")
    db.session.commit()
    webhook_id = db.session.query(OrgWebhook.id).scalar()
    for url in (
        "usage",
        "usage?by=key&range=24h",
        "usage/export",
        "usage/export?format=json",
        "calls",
        "runs",
        "alerts",
    ):
        expected = by_role(MEMBERS, 200, 302)
        assert statuses(cast, f"/orgs/acme/{url}") == expected, url
    assert cast["bob"].browser.get("/orgs/acme/analytics?by=agent").location == "/orgs/acme/usage?by=agent"
    assert statuses(cast, f"/orgs/acme/webhooks/{webhook_id}") == by_role(ADMINS, 200, 302)
    for url in ("usage", "usage/export", "analytics", "analytics/export?format=json", "monitoring", "alerts"):
        assert statuses(cast, f"/api/orgs/{acme.id}/{url}") == by_role(MEMBERS, 200, 401), url
    answer = cast["bob"].browser.get(f"/api/orgs/{acme.id}/analytics/export?format=xml")
    assert (answer.status_code, answer.json) == (400, {"error": "Invalid format. Use csv or json."})


def test_runs_and_calls_of_others_are_for_those_who_see_all(
    acme: Org, cast: dict[str, Person], calls: dict[str, str]
) -> None:
    expected = {"alice": 200, "carol": 200, "bob": 404, "dave": 200, "mallory": 404, "anonymous": 302}
    assert statuses(cast, f"/orgs/acme/runs/{calls['alice']}") == expected
    messages = f"/orgs/acme/runs/{calls['alice']}/calls/req-alice"
    assert statuses(cast, messages) == expected | {"dave": 403}
    own = f"/orgs/acme/runs/{calls['bob']}/calls/req-bob"
    assert statuses(cast, own) == expected | {"dave": 403, "bob": 200}
    for path in ("/orgs/acme/calls/req-alice", "/orgs/acme/calls/req-alice/request.json"):
        assert statuses(cast, path) == expected | {"dave": 403}


def test_members_see_their_own_rows(acme: Org, cast: dict[str, Person], calls: dict[str, str]) -> None:
    for name, others in (("bob", False), ("dave", True), ("carol", True)):
        browser = cast[name].browser
        page = browser.get("/orgs/acme/usage?by=model").text
        assert ("north/alice" in page) is others, name
        assert ("Your own usage" in page) is not others, name
        assert (
            "north/alice" in browser.get(f"/orgs/acme/usage?by=model&member={cast['alice'].id}").text
        ) is others
        assert ("north/alice" in browser.get("/orgs/acme/calls").text) is others
        exported = list(csv.DictReader(io.StringIO(browser.get("/orgs/acme/usage/export?range=7d").text)))
        whose = {row["email"] for row in exported}
        assert whose == ({f"{each}@example.org" for each in calls} if others else {f"{name}@example.org"}), (
            name
        )
        parsed = json.loads(browser.get("/orgs/acme/usage/export?range=7d&format=json").text)
        assert [row["call"] for row in parsed] == [row["call"] for row in exported]
        usage = browser.get(f"/api/orgs/{acme.id}/usage").json
        assert usage["usageThisCycle"] == 60
        assert {row["user_email"]: row["credits_used"] for row in usage["topUsers"]} == (
            {"alice@example.org": 30, "bob@example.org": 20, "carol@example.org": 10}
            if others
            else {"bob@example.org": 20}
        )
        assert len(usage["recentUsage"]) == (3 if others else 1)


def test_analytics_and_its_exports(acme: Org, alice: Person, calls: dict[str, str]) -> None:
    found = alice.browser.get(f"/api/orgs/{acme.id}/analytics").json
    assert [(row["credits_used"], row["percentage"]) for row in found["topUsers"]] == [
        (30, 50.0),
        (20, 33.3),
        (10, 16.7),
    ]
    assert found["topRepositories"] == [
        {"repository_url": "https://github.com/acme/=api", "credits_used": 60}
    ]
    assert [row["credits_used"] for row in found["dailyUsage"]] == [60]
    assert found["costProjection"]["averageDaily"] == round(60 / now().day)
    answer = alice.browser.get(f"/api/orgs/{acme.id}/usage/export")
    assert answer.headers["Content-Type"] == "text/csv"
    assert answer.headers["Content-Disposition"].startswith(f'attachment; filename="org-usage-{acme.id}-')
    head, first, *_ = answer.text.splitlines()
    assert head == "Date,User,Repository,Credits Used,Message ID"
    assert first.endswith('"https://github.com/acme/=api","10","gen-carol"')
    document = alice.browser.get(f"/api/orgs/{acme.id}/analytics/export?format=json")
    parsed = json.loads(document.text)
    assert parsed["summary"] == {"total_records": 3, "total_credits": 60}
    assert ".json" in document.headers["Content-Disposition"]


def test_monitoring_has_real_figures(acme: Org, alice: Person, calls: dict[str, str]) -> None:
    found = alice.browser.get(f"/api/orgs/{acme.id}/monitoring").json
    assert found["creditVelocity"] == {"current": 60, "trend": "stable", "percentage": 0}
    assert found["burnRate"] == {"daily": 60, "weekly": 60, "monthly": 60, "daysRemaining": 0}
    assert found["performanceMetrics"]["uptime"] is None
    assert found["performanceMetrics"]["errorRate"] == 0
    assert found["performanceMetrics"]["responseTime"] > 0
    assert found["healthStatus"] == "critical"
    assert found["alerts"] == {"active": 1, "critical": 1, "warnings": 0}


def test_alerts_of_the_contract_follow_the_balance(
    acme: Org, alice: Person, bob: Person, calls: dict[str, str]
) -> None:
    url = f"/api/orgs/{acme.id}/alerts"

    def listed(person: Person) -> list[tuple[str, str, str]]:
        found = person.browser.get(url).json["alerts"]
        return [(each["id"], each["severity"], each["message"]) for each in found]

    low = f"low-balance-{acme.id}"
    assert listed(bob) == [(low, "critical", "Organization has 0 credits remaining")]
    factories.grant(alice.user, 300, type="organization", org_id=acme.id)  # type: ignore[arg-type]
    assert listed(bob) == [(low, "warning", "Organization has 300 credits remaining")]
    assert bob.browser.post(f"{url}/{low}/dismiss").json == {"success": True}
    assert listed(bob) == []
    assert [id for id, *_ in listed(alice)] == [low]
    factories.grant(alice.user, 9000, type="organization", org_id=acme.id)  # type: ignore[arg-type]
    assert listed(alice) == []
    edit_org(acme, {"credit_limit": 65, "billing_alerts": False})
    db.session.commit()
    expected = (
        f"credit-limit-{acme.id}",
        "warning",
        "Organization has used 60 of 65 credits this month (92%)",
    )
    assert listed(alice) == [expected]
    edit_org(acme, {"credit_limit": 60})
    db.session.commit()
    assert listed(alice)[0][1] == "critical"
    assert bob.browser.post(f"{url}/nothing/dismiss").status_code == 404


def test_who_may_change(acme: Org, cast: dict[str, Person]) -> None:
    webhook, _ = add_webhook(acme.id, "https://10.0.0.1/hook")
    delivery = enqueue_delivery(webhook, "test", {})
    raise_alert(acme.id, "low_balance", "1", "warning", "Low", "Low")
    db.session.commit()
    alert_id = db.session.query(OrgAlert.id).scalar()
    hook = f"/orgs/acme/webhooks/{webhook.id}"
    settings = {
        "low_balance": "900",
        "critical_balance": "100",
        "high_usage": "5,000",
        "limit_percent": "80",
        "unusual_factor": "4",
        "unusual_minimum": "500",
        "mailed": ["low_balance"],
        "roles": ["owner"],
        "weekly_reports": "1",
    }
    for url, data, ok in (
        ("/orgs/acme/alerts/settings", settings, 303),
        ("/orgs/acme/alerts/settings", settings | {"low_balance": "none", "critical_balance": "-1"}, 422),
        ("/orgs/acme/alerts/test-mail", {}, 303),
        ("/orgs/acme/webhooks", {"url": "https://169.254.169.254/"}, 422),
        (f"{hook}/secret", {}, 200),
        (f"{hook}/test", {}, 303),
        (f"{hook}/deliveries/{delivery.id}", {}, 303),
        (f"{hook}/deliveries/nothing", {}, 404),
        (f"{hook}/enable", {}, 303),
        ("/orgs/acme/webhooks/nothing/test", {}, 404),
    ):
        expected = by_role(ADMINS, ok, 303)
        assert posted(cast, url, **data) == expected, url
    dismissed = posted(cast, f"/orgs/acme/alerts/{alert_id}/dismiss")
    assert dismissed == by_role(MEMBERS, 303, 303)
    assert post(cast["alice"], f"{hook}/delete").status_code == 303
    db.session.expire_all()
    assert (acme.weekly_reports, acme.billing_alerts, acme.usage_alerts) == (True, False, False)
    assert db.session.query(WebhookDelivery).count() == 0


def test_secret_is_shown_once(acme: Org, alice: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("views.orgs.pages.org_alert_pages.check_url", lambda url: url)
    made = post(alice, "/orgs/acme/webhooks", url="https://example.org/hook")
    assert made.status_code == 200
    assert made.text.count("whsec_") == 1
    webhook_id = db.session.query(OrgWebhook.id).scalar()
    assert "whsec_" not in alice.browser.get(f"/orgs/acme/webhooks/{webhook_id}").text


def test_forecast_says_its_basis(app: Flask, acme: Org, alice: Person) -> None:
    factories.grant(alice.user, 1000, type="organization", org_id=acme.id)  # type: ignore[arg-type]
    with factories.one_commit():
        for days in range(1, 7):
            factories.message(
                alice.user, org_id=acme.id, finished_at=datetime.now(UTC) - timedelta(days=days), credits=600
            )
    page = alice.browser.get("/orgs/acme/usage").text
    assert "credits a day, the pace of" in page
    weekday = f"{datetime.now(UTC) + timedelta(days=1000 / 600):%a %-d}"
    assert weekday in page
    assert db.session.query(Message).count() == 6


def test_the_overview_shows_the_organisation_at_a_glance(
    app: Flask, session: OrmSession, cast: dict[str, Person], acme: Org
) -> None:
    """Set-up for who manages members; figures, budgets and what used most for all, members their own; few statements."""
    alice, bob = cast["alice"], cast["bob"]
    assert "0 of 5 done" not in alice.browser.get("/orgs/acme").text  # others are members
    assert "of 5 done" in alice.browser.get("/orgs/acme").text
    assert "of 5 done" not in bob.browser.get("/orgs/acme").text
    factories.grant(alice.user, 300, type="organization", org_id=acme.id)  # type: ignore[arg-type]
    budgets.create_budget(Account(org_id=acme.id), "member", "day", 40)
    run = factories.run(bob.user, "acme/reviewer@1.0.0", org_id=acme.id)  # type: ignore[arg-type]
    key = hash_token(factories.token(bob.user, org_id=acme.id, name="laptop"))  # type: ignore[arg-type]
    message = factories.message(bob.user, 30, org_id=acme.id, agent_id=run.agent_id, key_id=key)  # type: ignore[arg-type]
    factories.call(bob.user, org_id=acme.id, message=message, run_id=run.id)  # type: ignore[arg-type]
    session.commit()
    hers, his = alice.browser.get("/orgs/acme").text, bob.browser.get("/orgs/acme").text
    for text in ("laptop", "acme/reviewer", "Each member, a day"):
        assert text.lower() in hers.lower(), text
    assert f'href="/orgs/acme/calls?key={key}"' in hers
    assert ("Top keys" in hers, "Top keys" in his, "Top models" in his) == (True, False, True)
    assert "Budgets that limit you" in his
    org_usage.count_calls(acme.id, now())
    session.commit()
    for path in ("/orgs/acme", "/orgs/acme/usage", "/orgs/acme/team"):
        with recorded_statements(app) as statements:
            alice.browser.get(path)
        assert len(statements) < 24, path
        for once in ("FROM org_usage_state", "credits_held"):
            assert sum(once in statement for statement in statements) == 1, (path, once)
