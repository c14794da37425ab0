"""Access to organisations: the list, the overview and the rail, by role."""

from flask import Flask

from models.core.audit_log import AuditLog
from models.core.db import db
from models.orgs import CAN, PEOPLE_ROLES, Org, OrgTeam, record_org
from tests import factories
from tests.factories import Person

ROLES = {"alice": "owner", "carol": "admin", "bob": "member", "dave": "billing"}


def test_overview_is_for_members(acme: Org, cast: dict[str, Person]) -> None:
    for name, person in cast.items():
        response = person.browser.get("/orgs/acme")
        if name in ROLES:
            assert response.status_code == 200, name
            assert ROLES[name].capitalize() in response.text, name
            billing = ROLES[name] in CAN["see_billing"]
            assert ('href="/orgs/acme/billing"' in response.text) is billing, name
        else:
            assert response.status_code == (302 if name == "anonymous" else 404), name


def test_list_shows_only_own_organisations(acme: Org, cast: dict[str, Person]) -> None:
    service = factories.user("service")
    factories.join(acme, service.id, "service")
    for name, person in cast.items():
        response = person.browser.get("/api/orgs")
        if name == "anonymous":
            assert (response.status_code, response.json) == (401, {"error": "Unauthorized"})
            continue
        listed = response.json["organizations"]
        if name == "mallory":
            assert listed == []
            assert "belong to no organisation" in person.browser.get("/orgs").text
            continue
        assert listed == [
            {
                "id": acme.id,
                "name": "Acme",
                "slug": "acme",
                "role": ROLES[name],
                "memberCount": 4,
                "repositoryCount": 0,
            }
        ], name
        assert 'href="/orgs/acme"' in person.browser.get("/orgs").text


def test_every_capability_names_known_roles() -> None:
    for capability, roles in CAN.items():
        assert "owner" in roles, capability
        assert roles <= {*PEOPLE_ROLES, "service"}, capability


def test_organisation_has_one_default_team(acme: Org) -> None:
    teams = db.session.query(OrgTeam).filter_by(org_id=acme.id).all()
    assert [(team.name, team.is_default) for team in teams] == [("Everyone", True)]


def test_deleted_organisation_cannot_be_opened(acme: Org, alice: Person) -> None:
    acme.deleted_at = factories.now()
    db.session.commit()
    assert alice.browser.get("/orgs/acme").status_code == 404
    assert alice.browser.get("/api/orgs").json == {"organizations": []}


def test_audit_entry_of_a_job_is_the_systems(app: Flask, acme: Org) -> None:
    record_org(acme.id, "member.added", "bob@example.org", after={"role": "member"})
    db.session.commit()
    row = db.session.query(AuditLog).one()
    assert (row.org_id, row.actor, row.actor_id, row.action, row.after) == (
        acme.id,
        "system",
        None,
        "member.added",
        {"role": "member"},
    )
