"""The watch over organisations: unusual spend, invitations that expire, weekly reports on the organisation's clock."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from flask import Flask

from models.core import mail
from models.core.db import db
from models.ledger import Account, lock_account
from models.orgs import Org, OrgAlert, OrgInvite
from models.usage.alert_watch import orgs_to_watch, watch_invites, watch_org, watch_spend
from models.usage.org_usage import count_calls
from models.usage.weekly_report import orgs_to_report, send_report
from tests import factories
from tests.factories import Person

NOW = datetime(2026, 11, 20, 14, 35, 7, tzinfo=UTC)
MONDAY = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)


def spend(org: Org, person: Person, days_ago: float, credits: int, agent: str = "acme/fixer@1.0.0") -> None:
    factories.message(
        person.user,
        org_id=org.id,
        finished_at=NOW - timedelta(days=days_ago),
        credits=credits,
        cost=Decimal(1),
        agent_id=agent,
    )


@pytest.fixture
def mails(monkeypatch: pytest.MonkeyPatch) -> list[mail.Email]:
    sent: list[mail.Email] = []
    monkeypatch.setattr(mail, "send", lambda _settings, message: sent.append(message))
    return sent


def alerts(org: Org) -> list[tuple[str, str]]:
    db.session.flush()
    found = db.session.query(OrgAlert).filter_by(org_id=org.id).order_by(OrgAlert.message).all()
    return [(alert.kind, alert.message) for alert in found]


def test_spend_far_above_the_usual_day_is_told_once_a_day(
    app: Flask, acme: Org, alice: Person, bob: Person
) -> None:
    with factories.one_commit():
        for day in range(3, 8):
            spend(acme, alice, day, 100)
            spend(acme, bob, day, 900, agent="acme/reviewer@1.0.0")
        spend(acme, alice, 0.1, 700)  # seven times
        spend(acme, bob, 0.1, 1000, agent="acme/reviewer@1.0.0")  # as usual
        spend(acme, bob, 0.2, 5000, agent="acme/new@1.0.0")  # bob is unusual; the agent has no usual day
    count_calls(acme.id, NOW)
    for _ in range(2):
        watch_spend(acme, NOW)
    assert alerts(acme) == [
        (
            "unusual_spend",
            "acme/fixer used 700 credits in the last 24 hours, 7.0 times the usual day of 100.",
        ),
        ("unusual_spend", "alice used 700 credits in the last 24 hours, 7.0 times the usual day of 100."),
        ("unusual_spend", "bob used 6,000 credits in the last 24 hours, 6.7 times the usual day of 900."),
    ]


def test_invitations_that_expire_are_one_alert_a_day(app: Flask, acme: Org) -> None:
    with factories.one_commit():
        for number, hours in enumerate((1, 23, 25, -1)):
            factories.save(
                OrgInvite(
                    org_id=acme.id,
                    email=f"p{number}@example.org",
                    role="member",
                    token=f"t{number}",
                    invited_by=acme.owner_id,
                    expires_at=NOW + timedelta(hours=hours),
                )
            )
    for _ in range(2):
        watch_invites(acme, NOW)
    assert alerts(acme) == [
        ("invite_expiring", "2 invitations expire within a day: p0@example.org, p1@example.org.")
    ]


def test_state_alerts_open_once_and_close(app: Flask, acme: Org, alice: Person) -> None:
    factories.account(acme)
    lock_account(Account(org_id=acme.id))
    acme.credit_limit = 1000
    spend(acme, alice, 0.001, 6000)
    db.session.commit()
    assert orgs_to_watch(NOW) == [acme.id]
    for _ in range(2):
        watch_org(acme, now=NOW)
    assert {kind for kind, _ in alerts(acme)} == {"low_balance", "high_usage", "credit_limit_reached"}
    assert len(alerts(acme)) == 3
    later = NOW + timedelta(days=30)
    assert orgs_to_watch(later) == [acme.id]
    acme.billing_alerts = False
    watch_org(acme, now=later)
    db.session.flush()
    assert orgs_to_watch(later) == []


@pytest.mark.parametrize(("zone", "hours"), [("UTC", 0), ("Asia/Tokyo", -9), ("America/New_York", 5)])
def test_weekly_report_is_sent_on_monday_at_eight_local_time(
    app: Flask, acme: Org, alice: Person, mails: list[mail.Email], zone: str, hours: int
) -> None:
    lock_account(Account(org_id=acme.id))
    acme.time_zone, acme.weekly_reports = zone, True
    with factories.one_commit():
        spend(acme, alice, 2, 1234)
    moment = MONDAY + timedelta(hours=hours)
    assert orgs_to_report(moment - timedelta(minutes=1)) == []
    assert orgs_to_report(moment) == [acme.id]
    assert [send_report(acme, moment) for _ in range(2)] == [True, False]
    assert orgs_to_report(moment) == []
    (sent,) = mails
    assert (sent.to, sent.subject) == ("alice@example.org", "Acme: 1,234 credits last week")
    assert "2026-11-16 to 2026-11-22: 1 call, 1,234 credits (0 the week before)." in sent.text
    assert "alice: 1,234" in sent.text


def test_weekly_report_says_when_nothing_happened(app: Flask, acme: Org, mails: list[mail.Email]) -> None:
    acme.weekly_reports = True
    send_report(acme, MONDAY)
    (sent,) = mails
    assert sent.subject == "Acme: 0 credits last week"
    assert "2026-11-16 to 2026-11-22: no calls" in sent.text
