"""`/api/publishers*` by the contract's tables: bodies, statuses, order of checks, permissions."""

import threading
from typing import Any

import pytest
from flask import Flask
from markupsafe import escape
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession
from werkzeug.test import TestResponse

from models.core.audit_log import AuditLog
from models.orgs import Org, OrgMember
from models.store import Publisher
from tests import factories
from tests.factories import Person

CHARACTERS = "Publisher ID must contain only lowercase letters, numbers, and hyphens"
SHORT = "Publisher ID must be at least 3 characters long"
LONG = "Publisher ID must be no more than 30 characters long"
HYPHEN = "Publisher ID cannot start or end with a hyphen"
TAKEN = "This publisher ID is already taken"
COLUMNS = {
    "id", "name", "email", "verified", "bio", "avatar_url", "user_id", "org_id", "created_by", "created_at",
    "updated_at", "agentCount", "ownershipType",
}  # fmt: skip
AVATAR = f"/uploads/avatars/{'0' * 64}.webp"


def reply(answer: TestResponse) -> tuple[int, Any]:
    """Status and body. The `details` of a 404 are required, and removed to compare with the contract."""
    body = answer.get_json()
    assert answer.status_code != 404 or len(body.pop("details")) > 20
    return answer.status_code, body


def make(person: Person, **body: Any) -> TestResponse:
    return person.browser.post("/api/publishers", json={"id": "harbor", "name": "Harbor"} | body)


def actions(session: OrmSession) -> list[str]:
    session.expire_all()
    return list(session.scalars(select(AuditLog.action).order_by(AuditLog.id)))


# -- create --------------------------------------------------------------------------------------------------


def test_a_publisher_is_made_with_trimmed_texts(alice: Person, session: OrmSession) -> None:
    answer = make(alice, name="  Harbor  Works ", email=" ", bio=" We dock.\r\nWe ship. ", avatar_url="")
    assert answer.status_code == 201
    row = answer.get_json()
    assert set(row) == COLUMNS
    assert row["name"] == "Harbor Works"
    assert (row["email"], row["avatar_url"]) == (None, None)
    assert row["bio"] == "We dock.\nWe ship."
    assert (row["verified"], row["agentCount"], row["ownershipType"]) == (False, 0, "user")
    assert (row["user_id"], row["org_id"], row["created_by"]) == (alice.id, None, alice.id)
    assert row["created_at"].endswith("Z")
    assert session.get_one(Publisher, "harbor").name == "Harbor Works"
    assert actions(session) == ["publisher.created"]


@pytest.mark.parametrize(
    ("requested", "message"),
    [
        ("", CHARACTERS),
        ("Harbor", CHARACTERS),
        ("har bor", CHARACTERS),
        ("hаrbor", CHARACTERS),  # a Cyrillic letter
        ("ｈarbor", CHARACTERS),
        ("harbor\n", CHARACTERS),
        ("harbor\0", CHARACTERS),
        ("../harbor", CHARACTERS),
        ("٣٤٥", CHARACTERS),
        ("é", CHARACTERS),
        ("ab", SHORT),
        ("-a", SHORT),
        ("a" * 31, LONG),
        ("-" * 31, LONG),
        ("-harbor", HYPHEN),
        ("harbor-", HYPHEN),
        ("new", TAKEN),
        (None, CHARACTERS),
        (7, CHARACTERS),
        (["harbor"], CHARACTERS),
    ],
)
def test_the_first_broken_rule_of_an_id_answers(alice: Person, requested: Any, message: str) -> None:
    assert reply(make(alice, id=requested)) == (400, {"error": message})
    if isinstance(requested, str) and requested:
        answer = alice.browser.get("/api/publishers/validate", query_string={"id": requested})
        assert reply(answer) == (200, {"valid": False, "error": message})


@pytest.mark.parametrize("requested", ["abc", "a" * 30, "a--b", "007", "a-1"])
def test_good_ids_are_taken(alice: Person, requested: str) -> None:
    check = {"query_string": {"id": requested}}
    assert reply(alice.browser.get("/api/publishers/validate", **check)) == (
        200,
        {"valid": True, "error": None},
    )
    assert make(alice, id=requested).status_code == 201
    assert reply(alice.browser.get("/api/publishers/validate", **check)) == (
        200,
        {"valid": False, "error": TAKEN},
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (None, "Publisher name is required"),
        ("   ", "Publisher name is required"),
        ("\u200b\u200b", "Publisher name is required"),
        ("\u200d\u200d", "Publisher name is required"),
        (" H ", "Publisher name must be at least 2 characters long"),
        ("H\u0000", "Publisher name must be at least 2 characters long"),
        ("H" * 51, "Publisher name must be no more than 50 characters long"),
        (5, "Publisher name is required"),
    ],
)
def test_the_first_broken_rule_of_a_name_answers(alice: Person, name: Any, message: str) -> None:
    assert reply(make(alice, name=name)) == (400, {"error": message})
    assert reply(make(alice, id="-", name=name)) == (400, {"error": SHORT}), "the id is judged first"


def test_bidirectional_characters_are_removed(alice: Person) -> None:
    row = make(alice, name="Har\u202ebor\u0007", bio="a\u0000b\u2028c\u202e", email="\u0008").get_json()
    assert (row["name"], row["bio"], row["email"]) == ("Harbor", "ab\nc", None)


@pytest.mark.parametrize(
    ("avatar", "shown"),
    [
        ("https://example.org/a.png", False),
        (AVATAR, True),
        ("not an address", False),
        ("http://example.org/a.png", False),
        ("javascript:alert(1)", False),
        ("JAVASCRIPT:alert(1)//https://a", False),
        ("data:image/svg+xml,<svg/>", False),
        ("/uploads/avatars/../../../etc/passwd", False),
        ("//example.org/a.png", False),
        ("https://a:b@example.org/", False),
        ("https://[::1", False),
        ("https:///a.png", False),
        ('https://example.org/"onerror=', False),
        ("https://example.org/a b", False),
    ],
)
def test_any_avatar_is_kept_and_only_a_picture_is_shown(
    alice: Person, session: OrmSession, avatar: str, shown: bool
) -> None:
    answer = make(alice, avatar_url=avatar)
    assert (answer.status_code, answer.get_json()["avatar_url"]) == (201, avatar)
    factories.agent(session.get_one(Publisher, "harbor"))
    for page in ("/publishers/harbor", "/publishers", "/publishers/harbor/edit", "/store"):
        text = alice.browser.get(page).text
        assert "harbor" in text, page
        assert ("<img" in text) is shown, page
        assert shown or str(escape(avatar)) not in text, page


def test_an_avatar_url_is_bounded_text(alice: Person) -> None:
    assert make(alice, avatar_url="https://example.org/" + "a" * 3000).status_code == 400
    assert make(alice, avatar_url=8).get_json()["avatar_url"] is None


def test_an_email_is_not_validated_on_create(alice: Person) -> None:
    assert make(alice, email="not an address").get_json()["email"] == "not an address"
    assert make(alice, id="other", email="a" * 300).status_code == 400
    assert make(alice, id="other", bio="a" * 1001).status_code == 400


def test_an_id_is_taken_once(alice: Person, mallory: Person) -> None:
    assert make(alice).status_code == 201
    assert reply(make(mallory)) == (400, {"error": TAKEN})
    assert reply(make(alice, org_id="nowhere")) == (404, {"error": "Organization not found"})


def test_concurrent_creation_of_the_same_id(alice: Person, mallory: Person, app: Flask) -> None:
    for turn in range(5):
        answers: list[TestResponse] = []
        gate = threading.Barrier(2)

        def take(person: Person, name: str, answers: list[TestResponse] = answers, gate: Any = gate) -> None:
            gate.wait()
            answers.append(make(person, id=name))

        threads = [threading.Thread(target=take, args=(each, f"race-{turn}")) for each in (alice, mallory)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(answer.status_code for answer in answers) == [201, 400]
        assert [a.get_json() for a in answers if a.status_code == 400] == [{"error": TAKEN}]


def test_for_an_organisation(alice: Person, bob: Person, mallory: Person, acme: Org) -> None:
    assert reply(make(mallory, org_id=acme.id)) == (404, {"error": "Organization not found"})
    assert reply(make(mallory, org_id="x\0")) == (404, {"error": "Organization not found"})
    assert reply(make(bob, org_id=acme.id)) == (403, {"error": "Insufficient permissions"})
    row = make(alice, org_id=acme.id).get_json()
    assert (row["user_id"], row["org_id"], row["created_by"]) == (None, acme.id, alice.id)
    assert row["ownershipType"] == "organization"
    assert reply(make(mallory, id="no", org_id=acme.id)) == (400, {"error": SHORT}), "rules come first"


def test_what_is_no_json(alice: Person, anonymous: Person) -> None:
    answer = alice.browser.post("/api/publishers", data="{")
    assert reply(answer) == (500, {"error": "Internal server error"})
    assert reply(alice.browser.post("/api/publishers", data="[]")) == (400, {"error": CHARACTERS})
    assert reply(anonymous.browser.post("/api/publishers", data="{")) == (401, {"error": "Unauthorized"})


def test_rejected_requests_do_not_count_towards_limits(alice: Person) -> None:
    for _ in range(130):
        assert reply(make(alice, id="no")) == (400, {"error": SHORT})
    assert make(alice).status_code == 201


def test_an_empty_question_about_an_id(anonymous: Person) -> None:
    wrong = (400, {"valid": False, "error": "Publisher ID is required"})
    assert reply(anonymous.browser.get("/api/publishers/validate")) == wrong
    assert reply(anonymous.browser.get("/api/publishers/validate?id=")) == wrong


# -- list ----------------------------------------------------------------------------------------------------


def test_lists_own_and_administered_publishers(
    alice: Person, bob: Person, mallory: Person, acme: Org, session: OrmSession
) -> None:
    assert alice.user
    own = factories.publisher(alice.user, "harbor")
    factories.publisher(acme, "acme-tools")
    factories.agent(own, "reviewer")
    factories.agent_version(own, "reviewer", "1.0.1")
    factories.agent(own, "writer")
    rows = alice.browser.get("/api/publishers").get_json()
    assert [(row["id"], row["agentCount"], row["ownershipType"]) for row in rows] == [
        ("harbor", 2, "user"),
        ("acme-tools", 0, "organization"),
    ]
    assert "organizationName" not in rows[0]
    assert rows[1]["organizationName"] == "Acme"
    assert bob.browser.get("/api/publishers").get_json() == []
    assert mallory.browser.get("/api/publishers").get_json() == []
    session.get_one(OrgMember, (acme.id, bob.id)).role = "admin"
    session.commit()
    assert [row["id"] for row in bob.browser.get("/api/publishers").get_json()] == ["acme-tools"]


# -- link and unlink -----------------------------------------------------------------------------------------


def link(person: Person, id: str = "harbor", **body: Any) -> TestResponse:
    return person.browser.post(f"/api/publishers/{id}/organization", json=body)


def unlink(person: Person, id: str = "harbor") -> TestResponse:
    return person.browser.delete(f"/api/publishers/{id}/organization")


def test_a_publisher_moves_to_an_organisation_and_back(alice: Person, acme: Org, session: OrmSession) -> None:
    make(alice)
    answer = link(alice, org_id=acme.id)
    row = answer.get_json()
    assert (answer.status_code, row["user_id"], row["org_id"]) == (200, None, acme.id)
    assert row["ownershipType"] == "organization"
    assert reply(link(alice, org_id=acme.id)) == (
        400,
        {"error": "Publisher is already linked to an organization"},
    )
    row = unlink(alice).get_json()
    assert (row["user_id"], row["org_id"], row["ownershipType"]) == (alice.id, None, "user")
    assert reply(unlink(alice)) == (400, {"error": "Publisher is not linked to an organization"})
    assert actions(session) == ["publisher.created", "publisher.linked", "publisher.unlinked"]


def test_the_order_of_the_checks_of_a_link(
    alice: Person, bob: Person, mallory: Person, anonymous: Person, acme: Org
) -> None:
    make(alice)
    missing = (400, {"error": "Organization ID is required"})
    for body in ({}, {"org_id": ""}, {"org_id": None}, {"org_id": 4}):
        assert reply(link(mallory, **body)) == missing
    assert reply(mallory.browser.post("/api/publishers/harbor/organization", data="{")) == missing
    assert reply(link(anonymous)) == (401, {"error": "Unauthorized"})
    assert reply(link(mallory, org_id=acme.id)) == (404, {"error": "Publisher not found"})
    assert reply(link(alice, "nobody", org_id=acme.id)) == (404, {"error": "Publisher not found"})
    target = (403, {"error": "Insufficient permissions for target organization"})
    assert reply(link(alice, org_id="nowhere")) == target
    make(bob, id="bobs")
    assert reply(link(bob, "bobs", org_id=acme.id)) == target
    link(alice, org_id=acme.id)
    assert reply(link(alice, org_id="nowhere")) == target, "the target is checked before the state"


def test_who_may_change_an_organisations_publisher(
    alice: Person, bob: Person, mallory: Person, anonymous: Person, acme: Org, session: OrmSession
) -> None:
    factories.publisher(acme, "harbor")
    for call in (
        unlink,
        lambda person: link(person, org_id=acme.id),
        lambda person: person.browser.patch("/api/publishers/harbor", json={"name": "Stolen"}),
    ):
        assert reply(call(anonymous)) == (401, {"error": "Unauthorized"})
        assert reply(call(mallory)) == (404, {"error": "Publisher not found"})
        assert reply(call(bob)) == (403, {"error": "Insufficient permissions"})
    assert session.get_one(Publisher, "harbor", populate_existing=True).name == "Harbor"
    session.get_one(OrgMember, (acme.id, bob.id)).role = "admin"
    session.commit()
    assert unlink(bob).get_json()["user_id"] == alice.id


# -- edit ----------------------------------------------------------------------------------------------------


def edit(person: Person, **body: Any) -> TestResponse:
    return person.browser.patch("/api/publishers/harbor", json=body)


def test_an_edit_changes_what_it_names(alice: Person, session: OrmSession) -> None:
    make(alice, bio="Old", email="old@example.org")
    row = edit(alice, name=" New name ", bio=None).get_json()
    assert (row["name"], row["bio"], row["email"]) == ("New name", None, "old@example.org")
    assert edit(alice).get_json()["name"] == "New name"
    assert actions(session) == ["publisher.created", "publisher.edited"], "nothing changed, nothing written"
    line = session.scalars(select(AuditLog).order_by(AuditLog.id.desc())).first()
    assert line
    assert (line.before["name"], line.after["name"]) == ("Harbor", "New name")


def test_unvalidated_values_do_not_block_an_edit(alice: Person) -> None:
    make(alice, email="not an address", avatar_url="not an address either")
    row = edit(alice, bio="New", email="not an address").get_json()
    assert (row["bio"], row["email"], row["avatar_url"]) == ("New", "not an address", "not an address either")
    assert edit(alice, email="another that is none").status_code == 400


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"email": "nobody"}, "email"),
        ({"avatar_url": "javascript:alert(1)"}, "avatar_url"),
        ({"avatar_url": "data:text/html,x"}, "avatar_url"),
        ({"name": ""}, "name"),
        ({"name": None}, "name"),
        ({"bio": "a" * 1001}, "bio"),
    ],
)
def test_an_edit_says_what_is_wrong(alice: Person, body: dict[str, Any], field: str) -> None:
    make(alice)
    answer = edit(alice, **body)
    assert answer.status_code == 400
    assert list(answer.get_json()["details"]) == [field]


@pytest.mark.parametrize("raw", ["{", "[]", '"x"', '{"name": 4}', '{"bio": []}'])
def test_an_edit_of_the_wrong_shape(alice: Person, raw: str) -> None:
    make(alice)
    assert alice.browser.patch("/api/publishers/harbor", data=raw).status_code == 400


def test_an_agent_is_found_by_its_publishers_new_name(alice: Person, session: OrmSession) -> None:
    make(alice)
    factories.agent(session.get_one(Publisher, "harbor"))
    edit(alice, name="Lighthouse")
    session.expire_all()
    from models.store import Agent

    assert "lighthous" in session.get_one(Agent, ("harbor", "reviewer")).search


def test_changes_of_an_organisations_publisher_are_in_its_log(
    alice: Person, acme: Org, session: OrmSession
) -> None:
    make(alice, org_id=acme.id)
    alice.browser.patch("/api/publishers/harbor", json={"bio": "Ships"})
    alice.browser.delete("/api/publishers/harbor/organization")
    alice.browser.patch("/api/publishers/harbor", json={"bio": "Docks"})
    alice.browser.post("/api/publishers/harbor/organization", json={"org_id": acme.id})
    log = session.execute(select(AuditLog.action, AuditLog.org_id).order_by(AuditLog.id)).all()
    assert [tuple(row) for row in log] == [
        ("publisher.created", acme.id),
        ("publisher.edited", acme.id),
        ("publisher.unlinked", acme.id),
        ("publisher.edited", None),
        ("publisher.linked", acme.id),
    ]
