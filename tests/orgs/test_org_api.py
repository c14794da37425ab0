"""`/api/orgs*` by the contract's table: bodies, statuses, order of checks, permissions (2.8, 3.9, 3.14)."""

import threading
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession
from werkzeug.test import TestResponse

from models.core.audit_log import AuditLog
from models.core.db import db
from models.core.jobs import erase_one_org
from models.ledger import balance
from models.ledger.credit_operations import Account
from models.orgs import Org, OrgInvite, OrgMember, members_changed
from models.orgs.founding import GRACE, due_for_erasure
from tests import factories
from tests.factories import Person
from tests.orgs.forms import send

NOT_FOUND = (404, {"error": "Organization not found"})
FORBIDDEN = (403, {"error": "Insufficient permissions"})
UNAUTHORIZED = (401, {"error": "Unauthorized"})
SUCCESS = (200, {"success": True})
ONLY_OWNERS = (403, {"error": "Only organization owners can delete organizations"})
LAST_OWNER = "An organization needs at least one owner. Make someone else an owner first."


def reply(answer: TestResponse) -> tuple[int, Any]:
    return answer.status_code, answer.get_json()


def actions(session: OrmSession) -> list[str]:
    return list(session.scalars(select(AuditLog.action).order_by(AuditLog.id)))


def role_of(org: Org, person: Person) -> str | None:
    db.session.expire_all()
    found = db.session.get(OrgMember, (org.id, person.id))
    return found and found.role


# -- who may do what -----------------------------------------------------------------------------------------

READ, ADMINS, OWNERS = "read", "admins", "owners"
ROUTES = [
    ("GET", "", None, READ),
    ("GET", "/members", None, READ),
    ("GET", "/repos", None, READ),
    ("GET", "/publishers", None, READ),
    ("GET", "/settings", None, ADMINS),
    ("PATCH", "", {}, ADMINS),
    ("PATCH", "/settings", {}, ADMINS),
    ("POST", "/members", {"email": "nobody@example.org", "role": "member"}, ADMINS),
    ("PATCH", "/members/nobody", {"role": "member"}, ADMINS),
    ("DELETE", "/members/nobody", None, ADMINS),
    ("POST", "/repos", {"repository_url": "https://example.org/a/b", "repository_name": "b"}, ADMINS),
    ("PATCH", "/repos/nothing", {"isActive": True}, ADMINS),
    ("DELETE", "/repos/nothing", None, ADMINS),
    ("DELETE", "", None, OWNERS),
    ("DELETE", "/settings", None, OWNERS),
]


@pytest.mark.parametrize(("method", "path", "body", "who"), ROUTES)
def test_routes_follow_the_matrix(
    acme: Org, cast: dict[str, Person], method: str, path: str, body: Any, who: str
) -> None:
    assert cast["alice"].user
    factories.publisher(acme, "acme-tools")  # so that nobody deletes it
    allowed = {READ: {"alice", "carol", "bob", "dave"}, ADMINS: {"alice", "carol"}, OWNERS: {"alice"}}[who]
    for name, person in cast.items():
        for sent in (body, "broken") if body is not None else (None,):
            answer = person.browser.open(
                f"/api/orgs/{acme.id}{path}",
                method=method,
                **({"data": "{"} if sent == "broken" else {"json": sent} if sent is not None else {}),
            )
            if name == "anonymous":
                assert reply(answer) == UNAUTHORIZED
            elif name == "mallory":
                assert reply(answer) == NOT_FOUND
            elif name not in allowed:
                assert reply(answer) == (ONLY_OWNERS if who == OWNERS else FORBIDDEN), name
            elif sent == "broken":
                assert reply(answer) == (400, {"error": "Invalid JSON in request body"})
            else:
                assert answer.status_code not in (401, 403, 500), name
                assert answer.get_json().get("error") != "Organization not found"


# -- organisations -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        (None, "Organization name is required"),
        ("  ", "Organization name is required"),
        ("ab", "Organization name must be at least 3 characters long"),
        ("a" * 51, "Organization name must be no more than 50 characters long"),
        (
            "Acme & Co",
            "Organization name can only contain letters, numbers, spaces, hyphens, underscores, and periods",
        ),
        (
            "Ácme",
            "Organization name can only contain letters, numbers, spaces, hyphens, underscores, and periods",
        ),
    ],
)
def test_names_are_checked(alice: Person, name: str | None, problem: str) -> None:
    answer = alice.browser.post("/api/orgs", json={"name": name})
    assert reply(answer) == (400, {"error": problem})


def test_founder_owns_the_organisation(alice: Person, session: OrmSession) -> None:
    answer = alice.browser.post(
        "/api/orgs", json={"name": " Acme_Inc.  Labs ", "slug": "mine", "description": " "}
    )
    row = answer.get_json()
    assert answer.status_code == 201
    assert (row["name"], row["slug"], row["description"]) == ("Acme_Inc. Labs", "acmeinc-labs", None)
    assert (row["auto_topup_enabled"], row["auto_topup_amount"], row["auto_topup_threshold"]) == (
        True,
        20000,
        5000,
    )
    assert row["owner_id"] == alice.id
    assert actions(session) == ["organization.created"]
    view = alice.browser.get(f"/api/orgs/slug/{row['slug']}").get_json()
    assert (view["userRole"], view["memberCount"], view["creditBalance"]) == ("owner", 1, 0)
    assert view["created_at"] == row["created_at"]
    again = [alice.browser.post("/api/orgs", json={"name": name}).get_json()["slug"] for name in
             ("acmeinc labs", "Acmeinc-Labs-", "new", "...")]  # fmt: skip
    assert again == ["acmeinc-labs-1", "acmeinc-labs-2", "new-1", "org"]


def test_organisations_with_one_name_get_different_slugs(app: Flask, session: OrmSession) -> None:
    people = [factories.person(app, f"founder{n}") for n in range(4)]
    answers: list[TestResponse] = []
    threads = [
        threading.Thread(
            target=lambda p=p: answers.append(p.browser.post("/api/orgs", json={"name": "Race"}))  # type: ignore[misc]
        )
        for p in people
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer.get_json()["slug"] for answer in answers) == ["race", "race-1", "race-2", "race-3"]


def test_edits_and_settings_keep_what_is_absent(acme: Org, alice: Person, session: OrmSession) -> None:
    url = f"/api/orgs/{acme.id}"
    row = alice.browser.patch(url, json={"description": "Ships"}).get_json()
    assert (row["name"], row["description"], row["slug"]) == ("Acme", "Ships", "acme")
    assert alice.browser.patch(url, json={"name": "x"}).status_code == 400
    changes = {
        "timeZone": "Europe/Berlin", "creditLimit": 9000, "weeklyReports": True, "billingAlerts": False,
        "autoTopupAmount": 3000, "autoTopupEnabled": True,
    }  # fmt: skip
    assert reply(alice.browser.patch(f"{url}/settings", json=changes)) == SUCCESS
    settings = alice.browser.get(f"{url}/settings").get_json()
    assert {key: settings[key] for key in changes} == changes
    assert (settings["name"], settings["usageAlerts"], settings["userRole"]) == ("Acme", True, "owner")
    for wrong in (
        {"timeZone": "Mars"},
        {"timeZone": "localtime"},
        {"creditLimit": -1},
        {"weeklyReports": "yes"},
        {"autoTopupAmount": 10},
    ):
        assert alice.browser.patch(f"{url}/settings", json=wrong).status_code == 400, wrong
    assert actions(session) == ["organization.edited", "organization.edited", "topup.changed"]


# -- members -------------------------------------------------------------------------------------------------


def test_members_are_added_changed_and_removed(
    acme: Org, alice: Person, bob: Person, mallory: Person, session: OrmSession
) -> None:
    url, heard = f"/api/orgs/{acme.id}/members", []
    with members_changed.connected_to(lambda org_id: heard.append(org_id)):
        add = {"email": "Mallory@Example.org", "role": "viewer"}
        assert reply(alice.browser.post(url, json=add)) == (201, {"success": True})
        assert reply(alice.browser.post(url, json=add)) == (409, {"error": "User is already a member"})
        add["email"] = "nobody@example.org"
        assert reply(alice.browser.post(url, json=add)) == (404, {"error": "User not found"})
        for role in ("service", "boss", None):
            assert alice.browser.post(url, json={**add, "role": role}).status_code == 400
            assert alice.browser.patch(f"{url}/{bob.id}", json={"role": role}).status_code == 400
        assert reply(alice.browser.patch(f"{url}/{mallory.id}", json={"role": "billing"})) == SUCCESS
        listed = alice.browser.get(url).get_json()["members"]
        assert sorted((each["user"]["email"], each["role"]) for each in listed) == [
            ("alice@example.org", "owner"), ("bob@example.org", "member"), ("mallory@example.org", "billing"),
        ]  # fmt: skip
        invite = OrgInvite(
            org_id=acme.id, email="mallory@example.org", role="member", token="t", invited_by=alice.id,
            expires_at=factories.now(),
        )  # fmt: skip
        factories.save(invite)
        assert reply(alice.browser.delete(f"{url}/{mallory.id}")) == SUCCESS
        assert reply(alice.browser.delete(f"{url}/{mallory.id}")) == (404, {"error": "Member not found"})
        assert reply(bob.browser.delete(f"{url}/{bob.id}")) == SUCCESS
        assert reply(bob.browser.get(url)) == NOT_FOUND
    assert heard == [acme.id] * 3
    assert session.scalars(select(OrgInvite)).one().withdrawn_at is not None
    assert actions(session) == [
        "member.added", "member.role_changed", "member.removed", "invite.withdrawn", "member.left",
    ]  # fmt: skip


def test_only_owners_touch_owners(
    acme: Org, alice: Person, bob: Person, carol: Person, mallory: Person
) -> None:
    url = f"/api/orgs/{acme.id}/members"
    modify = (403, {"error": "Only owners can modify owner roles"})
    for target in (alice, bob, carol):
        role = "member" if target is alice else "owner"
        assert reply(carol.browser.patch(f"{url}/{target.id}", json={"role": role})) == modify
    assert reply(carol.browser.post(url, json={"email": "mallory@example.org", "role": "owner"})) == modify
    assert reply(carol.browser.delete(f"{url}/{alice.id}")) == (
        403,
        {"error": "Only owners can remove other owners"},
    )
    assert reply(bob.browser.delete(f"{url}/{carol.id}")) == FORBIDDEN
    assert reply(carol.browser.delete(f"{url}/{bob.id}")) == SUCCESS


def test_one_owner_stays(acme: Org, alice: Person, carol: Person, session: OrmSession) -> None:
    url = f"/api/orgs/{acme.id}/members"
    assert reply(alice.browser.delete(f"{url}/{alice.id}")) == (409, {"error": LAST_OWNER})
    assert reply(alice.browser.patch(f"{url}/{alice.id}", json={"role": "admin"})) == (
        409,
        {"error": LAST_OWNER},
    )
    assert reply(alice.browser.patch(f"{url}/{carol.id}", json={"role": "owner"})) == SUCCESS
    answers: list[int] = []
    threads = [
        threading.Thread(
            target=lambda p=p: answers.append(p.browser.delete(f"{url}/{p.id}").status_code)  # type: ignore[misc]
        )
        for p in (alice, carol)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [200, 409]
    left = alice if role_of(acme, alice) else carol
    assert (role_of(acme, left), session.get_one(Org, acme.id).owner_id) == ("owner", left.id)


# -- repositories and publishers -----------------------------------------------------------------------------


def test_repositories_are_added_switched_and_removed(acme: Org, alice: Person, session: OrmSession) -> None:
    url = f"/api/orgs/{acme.id}/repos"
    add = {"repository_url": "git@github.com:Acme/Site.git", "repository_name": "Site"}
    answer = alice.browser.post(url, json=add)
    row = answer.get_json()
    assert answer.status_code == 201
    assert (row["repo_url"], row["repo_name"], row["repo_owner"], row["is_active"], row["org_id"]) == (
        "https://github.com/acme/site", "Site", "acme", True, acme.id,
    )  # fmt: skip
    known = (409, {"error": "Repository already added to organization"})
    assert reply(alice.browser.post(url, json=add)) == known
    for wrong, error in (("not-a-url", "Repository domain not allowed"), ("http://", "Invalid URL format")):
        add["repository_url"] = wrong
        assert reply(alice.browser.post(url, json=add)) == (400, {"error": error})
    assert reply(alice.browser.patch(f"{url}/{row['id']}", json={"isActive": False})) == SUCCESS
    [listed] = alice.browser.get(url).get_json()["repositories"]
    assert (listed["is_active"], listed["approver"]) == (
        False,
        {"name": "alice", "email": "alice@example.org"},
    )
    assert alice.browser.get(f"/api/orgs/{acme.id}").get_json()["repositoryCount"] == 0
    missing = (404, {"error": "Repository not found"})
    assert alice.user
    other = factories.org(alice.user, "Beta")
    for path in (f"{url}/nothing", f"/api/orgs/{other.id}/repos/{row['id']}"):
        assert reply(alice.browser.patch(path, json={"isActive": True})) == missing
        assert reply(alice.browser.delete(path)) == missing
    assert reply(alice.browser.delete(f"{url}/{row['id']}")) == SUCCESS
    assert actions(session) == ["repository.added", "repository.deactivated", "repository.removed"]


def test_members_see_its_publishers(acme: Org, bob: Person) -> None:
    factories.agent(factories.publisher(acme, "acme-tools"))
    [listed] = bob.browser.get(f"/api/orgs/{acme.id}/publishers").get_json()["publishers"]
    assert (listed["id"], listed["agentCount"], listed["ownershipType"]) == ("acme-tools", 1, "organization")


# -- deletion ------------------------------------------------------------------------------------------------


def test_deletion_has_a_grace_of_fourteen_days(
    acme: Org, alice: Person, bob: Person, session: OrmSession
) -> None:
    assert alice.user
    assert bob.user
    key = factories.token(bob.user, org_id=acme.id)
    factories.grant(alice.user, 500, type="organization", org_id=acme.id)
    headers = {"authorization": f"Bearer {key}"}
    call = {"model": "stoa/demo", "messages": [{"role": "user", "content": "hi"}]}

    def status() -> int:
        return bob.browser.post("/v1/chat/completions", json=call, headers=headers).status_code

    publisher = factories.publisher(acme, "acme-tools")
    refused = alice.browser.delete(f"/api/orgs/{acme.id}")
    assert (refused.status_code, refused.get_json()["error"]) == (
        409, "Organization owns publishers. Transfer or unlink them first",
    )  # fmt: skip
    assert status() == 200
    publisher.org_id, publisher.user_id = None, alice.id
    session.commit()
    assert reply(alice.browser.delete(f"/api/orgs/{acme.id}")) == SUCCESS
    for person in (alice, bob):
        assert reply(person.browser.get(f"/api/orgs/{acme.id}")) == NOT_FOUND
    assert status() == 401
    assert due_for_erasure(factories.now()) == []
    # nobody else restores it, an owner does, and the keys work again
    assert send(bob, "/orgs/acme/restoration").status_code == 404
    assert send(alice, "/orgs/acme/restoration").status_code == 303
    assert status() == 200
    assert actions(session) == ["organization.deleted", "organization.restored"]


def test_deleted_organisation_is_erased_after_the_grace(
    acme: Org, alice: Person, bob: Person, session: OrmSession
) -> None:
    assert alice.user
    assert bob.user
    factories.grant(alice.user, 500, type="organization", org_id=acme.id)
    key = factories.token(bob.user, org_id=acme.id)
    answer = bob.browser.post(
        "/v1/chat/completions",
        json={"model": "stoa/demo", "messages": [{"role": "user", "content": "hi"}]},
        headers={"authorization": f"Bearer {key}"},
    )
    assert answer.status_code == 200
    id = acme.id
    assert reply(alice.browser.delete(f"/api/orgs/{id}/settings")) == SUCCESS
    session.expire_all()
    erase_one_org(org_id=id)
    assert session.get(Org, id) is not None
    acme.deleted_at = factories.now() - GRACE - timedelta(minutes=1)
    session.commit()
    assert due_for_erasure(factories.now()) == [id]
    erase_one_org(org_id=id)
    session.commit()
    erase_one_org(org_id=id)
    assert session.get(Org, id) is None
    assert balance(Account(org_id=id)).granted == 0
    assert actions(session) == ["organization.deleted", "organization.erased"]
