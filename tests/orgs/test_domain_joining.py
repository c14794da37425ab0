"""Joining by a proven domain: at once, after a request, or not."""

import pytest
from flask import Flask

from models.core.db import db
from models.core.mail import Email
from models.orgs import Org, OrgDomain, OrgDomainJoining, OrgJoinRequest, membership
from models.orgs.domain_joining import set_joining
from tests import factories
from tests.factories import Person
from tests.orgs.forms import send


@pytest.fixture
def domain(acme: Org) -> OrgDomain:
    row = OrgDomain(org_id=acme.id, domain="example.org", token="t", verified_at=factories.now())
    return factories.save(row)


@pytest.fixture
def kit(app: Flask, acme: Org) -> Person:
    return factories.person(app, "kit")


def opened(domain: OrgDomain, mode: str, role: str = "member") -> None:
    set_joining(domain, mode, role)
    db.session.commit()


def test_colleagues_join_at_once(acme: Org, domain: OrgDomain, kit: Person, outbox: list[Email]) -> None:
    opened(domain, "join", role="viewer")
    assert "Your colleagues are in Acme" in kit.browser.get("/orgs").text
    answer = send(kit, f"/orgs-by-domain/{acme.id}")
    assert (answer.status_code, answer.location) == (303, "/orgs/acme")
    member = membership(kit.id, acme.id)
    assert member
    assert member.role == "viewer"
    assert "Your colleagues" not in kit.browser.get("/orgs").text
    assert outbox == []


@pytest.mark.parametrize("closed", ["off", "unproven", "unverified", "elsewhere", "deleted"])
def test_others_may_not(closed: str, acme: Org, domain: OrgDomain, kit: Person, outbox: list[Email]) -> None:
    opened(domain, "off" if closed == "off" else "join")
    assert kit.user
    if closed == "unproven":
        domain.verified_at = None
    elif closed == "unverified":
        kit.user.email_verified = None
    elif closed == "elsewhere":
        kit.user.email = "kit@sub.example.org"
    elif closed == "deleted":
        acme.deleted_at = factories.now()
    db.session.commit()
    assert "Your colleagues" not in kit.browser.get("/orgs").text
    assert send(kit, f"/orgs-by-domain/{acme.id}").status_code == 404
    assert membership(kit.id, acme.id) is None


def test_a_request_is_decided_with_mails_to_both_sides(
    acme: Org, domain: OrgDomain, alice: Person, bob: Person, carol: Person, kit: Person, outbox: list[Email]
) -> None:
    opened(domain, "ask")
    path = f"/orgs-by-domain/{acme.id}"
    assert send(kit, path).location == "/orgs"
    assert sorted(each.to for each in outbox) == ["alice@example.org", "carol@example.org"]
    assert {each.subject for each in outbox} == {"kit asks to join Acme"}
    assert "You asked to join." in kit.browser.get("/orgs").text
    assert send(kit, path).status_code == 303
    row = db.session.query(OrgJoinRequest).one()
    decision = f"/orgs/acme/join-requests/{row.id}/decision"
    assert "kit@example.org" not in bob.browser.get("/orgs/acme/team").text
    assert "kit@example.org" in carol.browser.get("/orgs/acme/team").text
    for who, status in ((bob, 403), (kit, 404)):
        assert send(who, decision, decision="accept").status_code == status
    assert send(carol, decision, decision="decline").status_code == 303
    assert outbox[-1].to == "kit@example.org"
    assert outbox[-1].subject == "Your request to join Acme was declined"
    sent = len(outbox)
    send(kit, path)
    assert len(outbox) == sent, "asking again waits a week"
    db.session.rollback()
    db.session.query(OrgJoinRequest).one().decided_at = factories.now().replace(year=2020)
    db.session.commit()
    send(kit, path)
    again = db.session.query(OrgJoinRequest).filter_by(decided_at=None).one()
    send(alice, f"/orgs/acme/join-requests/{again.id}/decision", decision="accept")
    assert outbox[-1].subject == "You are a member of Acme"
    assert membership(kit.id, acme.id)


def test_owners_and_admins_choose_how_a_domain_joins(
    acme: Org, domain: OrgDomain, bob: Person, carol: Person, mallory: Person, anonymous: Person
) -> None:
    path = f"/orgs/acme/domains/{domain.id}/joining"
    for who, status in ((anonymous, 303), (mallory, 404), (bob, 403)):
        assert send(who, path, mode="join", role="member").status_code == status
    assert send(carol, path, mode="join", role="admin").status_code == 400
    assert send(carol, path, mode="ask", role="viewer").status_code == 303
    db.session.rollback()
    row = db.session.query(OrgDomainJoining).one()
    assert (row.mode, row.role) == ("ask", "viewer")
    assert send(carol, path, mode="off", role="viewer").status_code == 303
    assert db.session.query(OrgDomainJoining).count() == 0
