"""Alerts of organisations: raised once, shown by role, dismissed by person, sent by e-mail once."""

from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text

from models.core import mail
from models.core.db import db, now
from models.core.errors import NotFound
from models.orgs import Org, OrgAlert, membership, raise_alert, resolve_alerts
from models.orgs.alert_delivery import send_alert
from models.orgs.alert_settings import change_alert_settings
from models.orgs.alerts import alerts_for, dismiss, earlier_alerts
from tests.factories import Person


def a_budget_stopped(org: Org, key: str = "b1:2026-11", **facts: Any) -> OrgAlert:
    raise_alert(
        org.id, "budget_stopped", key, "critical", "Budget Used Up", "Team CI is out of credits.", facts
    )
    db.session.commit()
    return db.session.query(OrgAlert).filter_by(org_id=org.id, key=key).one()


@pytest.fixture
def mails(monkeypatch: pytest.MonkeyPatch) -> list[mail.Email]:
    sent: list[mail.Email] = []
    monkeypatch.setattr(mail, "send", lambda _settings, message: sent.append(message))
    return sent


def test_alert_is_raised_once_by_kind_and_key(app: Flask, acme: Org) -> None:
    made = [raise_alert(acme.id, "budget_warned", "b1:nov", "warning", "Title", "Text") for _ in range(3)]
    assert made == [True, False, False]
    db.session.commit()
    queued = "SELECT count(*) FROM procrastinate_jobs WHERE task_name = 'orgs.send_alert'"
    assert db.session.scalar(text(queued)) == 1
    with pytest.raises(ValueError, match="no kind"):
        raise_alert(acme.id, "nonsense", "b1", "warning", "Title", "Text")


def test_members_see_alerts_for_everyone_and_about_themselves(
    app: Flask, acme: Org, bob: Person, carol: Person, dave: Person
) -> None:
    raise_alert(acme.id, "low_balance", "1", "warning", "Low", "Low")
    raise_alert(acme.id, "unusual_spend", "2", "warning", "Bob", "Bob", {"user_id": bob.id})
    raise_alert(acme.id, "unusual_spend", "3", "warning", "Carol", "Carol", {"user_id": carol.id})
    db.session.commit()
    seen = {
        person.id: {alert.key for alert in alerts_for(member)}
        for person in (bob, carol, dave)
        if (member := membership(person.id, acme.id))
    }
    assert seen == {bob.id: {"1", "2"}, carol.id: {"1", "2", "3"}, dave.id: {"1", "2", "3"}}


def test_dismissal_is_stored_by_person_and_occurrence(
    app: Flask, acme: Org, alice: Person, carol: Person
) -> None:
    first = a_budget_stopped(acme)
    owner, admin = membership(alice.id, acme.id), membership(carol.id, acme.id)
    assert owner
    assert admin
    for _ in range(2):
        dismiss(owner, first.id)
    db.session.commit()
    assert alerts_for(owner) == []
    assert [alert.id for alert in earlier_alerts(owner)] == [first.id]
    assert [alert.id for alert in alerts_for(admin)] == [first.id]
    later = a_budget_stopped(acme, "b1:2026-12")
    assert [alert.id for alert in alerts_for(owner)] == [later.id]


def test_alert_of_another_organisation_cannot_be_dismissed(app: Flask, acme: Org, mallory: Person) -> None:
    from tests import factories

    assert mallory.user
    other = factories.org(mallory.user, "Other")
    alert = a_budget_stopped(acme)
    stranger = membership(mallory.id, other.id)
    assert stranger
    for id in (alert.id, "nothing", "nul\x00"):
        with pytest.raises(NotFound):
            dismiss(stranger, id)


def test_alert_is_over_when_resolved_or_after_its_time(app: Flask, acme: Org, alice: Person) -> None:
    owner = membership(alice.id, acme.id)
    assert owner
    a_budget_stopped(acme)
    raise_alert(acme.id, "card_expiring", "visa", "warning", "Card", "Card", until=now() + timedelta(days=1))
    assert {alert.kind for alert in alerts_for(owner)} == {"budget_stopped", "card_expiring"}
    resolve_alerts(acme.id, "budget_stopped")
    assert {alert.kind for alert in alerts_for(owner)} == {"card_expiring"}
    assert alerts_for(owner, now=now() + timedelta(days=2)) == []


def test_alert_is_mailed_once_to_the_roles_of_the_settings(
    app: Flask, acme: Org, alice: Person, carol: Person, dave: Person, mails: list[mail.Email]
) -> None:
    alert = a_budget_stopped(acme)
    for _ in range(2):
        send_alert(alert.id)
        db.session.commit()
    assert sorted(each.to for each in mails) == ["alice@example.org", "carol@example.org", "dave@example.org"]
    assert mails[0].subject == "Acme: Budget Used Up"
    assert "Team CI is out of credits." in mails[0].text
    assert "Team CI is out of credits." in (mails[0].html or "")
    mails.clear()
    defaults = {"low_balance": 500, "critical_balance": 100, "high_usage": 5000, "limit_percent": 90}
    more = {"unusual_factor": 4, "unusual_minimum": 500}
    for mailed, roles, expected in (
        ({"budget_stopped"}, {"billing"}, ["dave@example.org"]),
        ({"low_balance"}, {"owner"}, []),
    ):
        change_alert_settings(acme, defaults | more, mailed=mailed, roles=roles, switches={})
        send_alert(a_budget_stopped(acme, f"for {roles}").id)
        db.session.commit()
        assert [each.to for each in mails] == expected
        mails.clear()
