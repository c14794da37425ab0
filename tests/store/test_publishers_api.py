"""`/api/publishers*` by the contract's tables: bodies, statuses, order of checks, and who may what."""

import threading
from typing import Any

import pytest
from flask import Flask
from markupsafe import escape
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession
from werkzeug.test import TestResponse

from models.admin import AuditLog
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


def said(answer: TestResponse) -> tuple[int, Any]:
    """Status and body; what a 404 tells beside the contract's words must be there, and is left out."""
    body = answer.get_json()
    assert answer.status_code != 404 or len(body.pop("details")) > 20
    return answer.status_code, body


def make(person: Person, **body: Any) -> TestResponse:
    return person.browser.post("/api/publishers", json={"id": "harbor", "name": "Harbor"} | body)


def actions(session: OrmSession) -> list[str]:
    session.expire_all()
    return list(session.scalars(select(AuditLog.action).order_by(AuditLog.id)))


# -- making --------------------------------------------------------------------------------------------------


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
    ("wanted", "words"),
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
def test_the_first_broken_rule_of_an_id_answers(alice: Person, wanted: Any, words: str) -> None:
    assert said(make(alice, id=wanted)) == (400, {"error": words})
    if isinstance(wanted, str) and wanted:
        answer = alice.browser.get("/api/publishers/validate", query_string={"id": wanted})
        assert said(answer) == (200, {"valid": False, "error": words})


@pytest.mark.parametrize("wanted", ["abc", "a" * 30, "a--b", "007", "a-1"])
def test_good_ids_are_taken(alice: Person, wanted: str) -> None:
    check = {"query_string": {"id": wanted}}
    assert said(alice.browser.get("/api/publishers/validate", **check)) == (
        200,
        {"valid": True, "error": None},
    )
    assert make(alice, id=wanted).status_code == 201
    assert said(alice.browser.get("/api/publishers/validate", **check)) == (
        200,
        {"valid": False, "error": TAKEN},
    )


@pytest.mark.parametrize(
    ("name", "words"),
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
def test_the_first_broken_rule_of_a_name_answers(alice: Person, name: Any, words: str) -> None:
    assert said(make(alice, name=name)) == (400, {"error": words})
    assert said(make(alice, id="-", name=name)) == (400, {"error": SHORT}), "the id is judged first"


def test_what_turns_text_around_is_taken_out(alice: Person) -> None:
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


def test_an_avatar_is_text_and_has_an_end(alice: Person) -> None:
    assert make(alice, avatar_url="https://example.org/" + "a" * 3000).status_code == 400
    assert make(alice, avatar_url=8).get_json()["avatar_url"] is None


def test_the_contract_does_not_judge_an_email(alice: Person) -> None:
    assert make(alice, email="not an address").get_json()["email"] == "not an address"
    assert make(alice, id="other", email="a" * 300).status_code == 400
    assert make(alice, id="other", bio="a" * 1001).status_code == 400


def test_an_id_is_taken_once(alice: Person, mallory: Person) -> None:
    assert make(alice).status_code == 201
    assert said(make(mallory)) == (400, {"error": TAKEN})
    assert said(make(alice, org_id="nowhere")) == (404, {"error": "Organization not found"})


def test_two_who_take_the_same_id_at_once(alice: Person, mallory: Person, app: Flask) -> None:
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
    assert said(make(mallory, org_id=acme.id)) == (404, {"error": "Organization not found"})
    assert said(make(mallory, org_id="x\0")) == (404, {"error": "Organization not found"})
    assert said(make(bob, org_id=acme.id)) == (403, {"error": "Insufficient permissions"})
    row = make(alice, org_id=acme.id).get_json()
    assert (row["user_id"], row["org_id"], row["created_by"]) == (None, acme.id, alice.id)
    assert row["ownershipType"] == "organization"
    assert said(make(mallory, id="no", org_id=acme.id)) == (400, {"error": SHORT}), "rules come first"


def test_what_is_no_json(alice: Person, anonymous: Person) -> None:
    answer = alice.browser.post("/api/publishers", data="{")
    assert said(answer) == (500, {"error": "Internal server error"})
    assert said(alice.browser.post("/api/publishers", data="[]")) == (400, {"error": CHARACTERS})
    assert said(anonymous.browser.post("/api/publishers", data="{")) == (401, {"error": "Unauthorized"})


def test_what_is_refused_uses_up_no_limit(alice: Person) -> None:
    for _ in range(130):
        assert said(make(alice, id="no")) == (400, {"error": SHORT})
    assert make(alice).status_code == 201


def test_an_empty_question_about_an_id(anonymous: Person) -> None:
    wrong = (400, {"valid": False, "error": "Publisher ID is required"})
    assert said(anonymous.browser.get("/api/publishers/validate")) == wrong
    assert said(anonymous.browser.get("/api/publishers/validate?id=")) == wrong


# -- listing -------------------------------------------------------------------------------------------------


def test_mine_and_those_of_organisations_i_administer(
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


# -- to and from an organisation -----------------------------------------------------------------------------


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
    assert said(link(alice, org_id=acme.id)) == (
        400,
        {"error": "Publisher is already linked to an organization"},
    )
    row = unlink(alice).get_json()
    assert (row["user_id"], row["org_id"], row["ownershipType"]) == (alice.id, None, "user")
    assert said(unlink(alice)) == (400, {"error": "Publisher is not linked to an organization"})
    assert actions(session) == ["publisher.created", "publisher.linked", "publisher.unlinked"]


def test_the_order_of_the_checks_of_a_link(
    alice: Person, bob: Person, mallory: Person, anonymous: Person, acme: Org
) -> None:
    make(alice)
    missing = (400, {"error": "Organization ID is required"})
    for body in ({}, {"org_id": ""}, {"org_id": None}, {"org_id": 4}):
        assert said(link(mallory, **body)) == missing
    assert said(mallory.browser.post("/api/publishers/harbor/organization", data="{")) == missing
    assert said(link(anonymous)) == (401, {"error": "Unauthorized"})
    assert said(link(mallory, org_id=acme.id)) == (404, {"error": "Publisher not found"})
    assert said(link(alice, "nobody", org_id=acme.id)) == (404, {"error": "Publisher not found"})
    target = (403, {"error": "Insufficient permissions for target organization"})
    assert said(link(alice, org_id="nowhere")) == target
    make(bob, id="bobs")
    assert said(link(bob, "bobs", org_id=acme.id)) == target
    link(alice, org_id=acme.id)
    assert said(link(alice, org_id="nowhere")) == target, "the target is checked before the state"


def test_who_may_change_an_organisations_publisher(
    alice: Person, bob: Person, mallory: Person, anonymous: Person, acme: Org, session: OrmSession
) -> None:
    factories.publisher(acme, "harbor")
    for call in (
        unlink,
        lambda person: link(person, org_id=acme.id),
        lambda person: person.browser.patch("/api/publishers/harbor", json={"name": "Stolen"}),
    ):
        assert said(call(anonymous)) == (401, {"error": "Unauthorized"})
        assert said(call(mallory)) == (404, {"error": "Publisher not found"})
        assert said(call(bob)) == (403, {"error": "Insufficient permissions"})
    assert session.get_one(Publisher, "harbor", populate_existing=True).name == "Harbor"
    session.get_one(OrgMember, (acme.id, bob.id)).role = "admin"
    session.commit()
    assert unlink(bob).get_json()["user_id"] == alice.id


# -- editing -------------------------------------------------------------------------------------------------


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


def test_what_was_let_in_does_not_stop_an_edit(alice: Person) -> None:
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
