"""Teams, service accounts and keys of organisations: JSON routes, pages, who may what, what is recorded."""

import re
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import delete, event, select, update
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session as OrmSession
from werkzeug.test import TestResponse

from models.accounts import Session, User, credentials
from models.accounts.credentials import hash_token
from models.core.audit_log import AuditLog
from models.core.db import db, now
from models.core.errors import Conflict, Forbidden, NotFound
from models.ledger import Account
from models.ledger.budgets import create_budget
from models.orgs import Org, OrgMember, OrgRepo, OrgTeamMember, org_keys
from models.orgs.counts import counts_of
from models.orgs.service_accounts import create_service_account
from models.orgs.team_editing import create_team
from models.orgs.teams import ServiceAccount
from models.usage import Message
from tests import factories
from tests.factories import Person
from tests.orgs.forms import send

NOT_FOUND = (404, {"error": "Organization not found"})
FORBIDDEN = (403, {"error": "Insufficient permissions"})
UNAUTHORIZED = (401, {"error": "Unauthorized"})
SUCCESS = (200, {"success": True})
CALL = {"model": "stoa/demo", "messages": [{"role": "user", "content": "Say hello."}]}
READ, ADMINS, SPENDERS = "alice carol bob dave", "alice carol", "alice carol bob"


def reply(answer: TestResponse) -> tuple[int, Any]:
    return answer.status_code, answer.get_json()


def api(person: Person, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    return reply(person.browser.open(f"/api/orgs/acme{path}", method=method, json=body))


def actions(session: OrmSession) -> list[str]:
    session.rollback()
    return list(
        session.scalars(select(AuditLog.action).where(AuditLog.org_id.is_not(None)).order_by(AuditLog.id))
    )


def call(client: FlaskClient, secret: str) -> int:
    return client.post(
        "/v1/chat/completions", json=CALL, headers={"authorization": f"Bearer {secret}"}
    ).status_code


@pytest.fixture
def funded(acme: Org, alice: Person) -> Org:
    assert alice.user is not None
    factories.grant(alice.user, 900, "organization", org_id=acme.id)
    return acme


# -- who may do what -----------------------------------------------------------------------------------------

ROUTES = [
    ("GET", "/teams", None, READ),
    ("POST", "/teams", {"name": "Web"}, ADMINS),
    ("GET", "/teams/nothing", None, READ),
    ("PATCH", "/teams/nothing", {}, ADMINS),
    ("DELETE", "/teams/nothing", None, ADMINS),
    ("POST", "/teams/nothing/members", {"userId": "x"}, ADMINS),
    ("DELETE", "/teams/nothing/members/x", None, ADMINS),
    ("GET", "/service-accounts", None, READ),
    ("POST", "/service-accounts", {"name": "Builds"}, ADMINS),
    ("PATCH", "/service-accounts/nothing", {}, ADMINS),
    ("DELETE", "/service-accounts/nothing", None, ADMINS),
    ("GET", "/keys", None, READ),
    ("POST", "/keys", {"name": "laptop"}, SPENDERS),
    ("PATCH", "/keys/nothing", {}, READ),
    ("DELETE", "/keys/nothing", None, READ),
]


@pytest.mark.parametrize(("method", "path", "body", "who"), ROUTES)
def test_routes_follow_the_matrix(
    acme: Org, cast: dict[str, Person], method: str, path: str, body: Any, who: str
) -> None:
    for name, person in cast.items():
        answer = api(person, method, path, body)
        if name == "anonymous":
            assert answer == UNAUTHORIZED
        elif name == "mallory":
            assert answer == NOT_FOUND
        elif name in who.split():
            assert answer[0] == (404 if "nothing" in path else answer[0]), answer
            assert answer[0] in (200, 201, 404, 409), (name, answer)
        else:
            assert answer[0] == 403, name


PAGES = [
    ("GET", "/teams", READ),
    ("POST", "/teams", ADMINS),
    ("GET", "/teams/{team}", READ),
    ("POST", "/teams/{team}", ADMINS),
    ("GET", "/teams/{team}/removal", ADMINS),
    ("POST", "/teams/{team}/people", ADMINS),
    ("POST", "/teams/{team}/people/nobody/removal", ADMINS),
    ("GET", "/service-accounts", READ),
    ("POST", "/service-accounts", ADMINS),
    ("GET", "/service-accounts/{service}", ADMINS),
    ("POST", "/service-accounts/{service}", ADMINS),
    ("POST", "/service-accounts/{service}/state", ADMINS),
    ("GET", "/service-accounts/{service}/removal", ADMINS),
    ("GET", "/keys", READ),
    ("GET", "/keys/{key}", ADMINS),
    ("POST", "/keys/{key}/owner", ADMINS),
    ("POST", "/keys/{key}/team", ADMINS),
    ("GET", "/keys/{key}/revocation", ADMINS),
    ("POST", "/teams/{team}/removal", ADMINS),
    ("POST", "/service-accounts/{service}/removal", ADMINS),
]


def test_pages_follow_the_matrix(acme: Org, cast: dict[str, Person]) -> None:
    assert cast["alice"].user
    key = hash_token(factories.token(cast["alice"].user, org_id=acme.id))
    for method, path, who in PAGES:
        team, service = (
            create_team(acme, factories.new_id()).id,
            create_service_account(acme, None, factories.new_id()).user_id,
        )
        db.session.commit()
        for name, person in reversed(cast.items()):
            url = "/orgs/acme" + path.format(team=team, service=service, key=key)
            answer = person.browser.get(url) if method == "GET" else send(person, url)
            if name == "anonymous":
                assert answer.status_code in (302, 303), path
                assert "/login" in answer.headers["Location"]
            elif name in who.split():
                assert answer.status_code in (200, 303, 404, 422), (path, name)
            else:
                # another's key does not exist for a member
                assert answer.status_code == (
                    404 if name == "mallory" or ("{key}" in path and "owner" not in path) else 403
                ), (path, name)


def test_ids_of_another_organisation_do_not_exist(acme: Org, mallory: Person, alice: Person) -> None:
    assert mallory.user is not None
    other = factories.org(mallory.user, "Other")
    team, service = create_team(other, "Web"), create_service_account(other, None, "Builds")
    key = hash_token(factories.token(mallory.user, org_id=other.id))
    repo = factories.save(
        OrgRepo(org_id=other.id, repo_url="https://github.com/o/r", repo_name="r", approved_by=mallory.id)
    )
    db.session.commit()
    for path in (f"/teams/{team.id}", f"/service-accounts/{service.user_id}", f"/keys/{key}"):
        assert api(alice, "PATCH", path, {})[0] == 404
        assert api(alice, "DELETE", path)[0] == 404
    mine = api(alice, "POST", "/teams", {"name": "Mine"})[1]["id"]
    assert api(alice, "POST", f"/teams/{mine}/members", {"userId": mallory.id})[0] == 404
    assert api(alice, "PATCH", f"/teams/{mine}", {"repositoryIds": [repo.id]})[0] == 400
    assert api(alice, "POST", "/keys", {"name": "x", "teamId": team.id})[0] == 404
    assert api(alice, "POST", "/keys", {"name": "x", "ownerId": service.user_id})[0] == 404
    assert api(alice, "POST", "/service-accounts", {"name": "x", "teamId": team.id})[0] == 404


# -- teams ---------------------------------------------------------------------------------------------------


def test_team_narrows_and_ends(
    session: OrmSession, funded: Org, cast: dict[str, Person], client: FlaskClient
) -> None:
    carol, bob = cast["carol"], cast["bob"]
    status, team = api(carol, "POST", "/teams", {"name": " Web ", "models": ["openai/*", " openai/* ", ""]})
    assert (status, team["name"], team["models"], team["repositoryIds"]) == (201, "Web", ["openai/*"], None)
    path = f"/teams/{team['id']}"
    assert api(carol, "POST", "/teams", {"name": "web"}) == (409, {"error": "Another team has this name."})
    assert api(carol, "POST", f"{path}/members", {"userId": bob.id}) == (201, {"success": True})
    assert api(carol, "POST", f"{path}/members", {"userId": bob.id})[0] == 409
    secret = api(bob, "POST", "/keys", {"name": "laptop", "teamId": team["id"]})[1]["secret"]
    assert call(client, secret) == 403
    assert api(carol, "PATCH", path, {"models": None, "name": "Front"})[1]["models"] is None
    assert call(client, secret) == 200
    session.rollback()
    assert session.query(Message).one().team_id == team["id"]
    listed = {
        each["name"]: (each["memberCount"], each["keyCount"])
        for each in api(bob, "GET", "/teams")[1]["teams"]
    }
    assert listed == {"Everyone": (3, 0), "Front": (1, 1)}
    assert [each["id"] for each in api(bob, "GET", path)[1]["members"]] == [bob.id]

    account = Account(org_id=funded.id)
    budget = create_budget(account, level="team", subject=team["id"], period="day", limit_credits=500)
    session.commit()
    asked = carol.browser.get(f"/orgs/acme{path}/removal").text
    assert "1 person moves" in asked
    assert "1 key moves" in asked
    assert "Its budget ends." in asked
    assert api(carol, "DELETE", path) == SUCCESS
    session.expire_all()
    assert budget.ended_at
    assert session.get_one(Session, hash_token(secret)).team_id is None
    assert call(client, secret) == 200
    assert actions(session) == [
        "team.created",
        "team.member_added",
        "key.created",
        "team.changed",
        "budget.created",
        "budget.ended",
        "team.deleted",
    ]
    deleted = session.scalars(select(AuditLog).where(AuditLog.action == "team.deleted")).one()
    assert deleted.before == {
        "name": "Front",
        "models": None,
        "repositories": None,
        "people": 1,
        "keys": 1,
        "budgets": 1,
    }


def test_default_team_is_everybodys_and_stays(acme: Org, alice: Person, bob: Person) -> None:
    (default,) = api(alice, "GET", "/teams")[1]["teams"]
    path = f"/teams/{default['id']}"
    assert default["isDefault"]
    assert api(alice, "DELETE", path) == (409, {"error": "The default team cannot be deleted."})
    assert api(alice, "POST", f"{path}/members", {"userId": bob.id})[0] == 409
    assert api(alice, "PATCH", path, {"name": "All", "models": []})[1]["models"] == []


def test_leaving_a_team_takes_its_keys_out(
    session: OrmSession, acme: Org, alice: Person, bob: Person
) -> None:
    team = create_team(acme, "Web")
    factories.save(OrgTeamMember(team_id=team.id, org_id=acme.id, user_id=bob.id))
    secret = api(bob, "POST", "/keys", {"name": "x", "teamId": team.id})[1]["secret"]
    assert api(alice, "DELETE", f"/teams/{team.id}/members/{bob.id}") == SUCCESS
    assert api(alice, "DELETE", f"/teams/{team.id}/members/{bob.id}")[0] == 404
    session.rollback()
    assert session.get_one(Session, hash_token(secret)).team_id is None
    # a member gives a key only their own teams
    assert api(bob, "POST", "/keys", {"name": "y", "teamId": team.id}) == (
        403,
        {"error": "Choose one of your teams."},
    )


@pytest.mark.parametrize(
    "body",
    [{"name": ""}, {"name": "x" * 101}, {"name": "a\nb"}, {"name": "x", "models": ["a b"]}, {"name": 7}],
)
def test_bad_teams_are_refused(acme: Org, alice: Person, body: dict[str, Any]) -> None:
    assert api(alice, "POST", "/teams", body)[0] == 400


# -- service accounts ----------------------------------------------------------------------------------------


def test_service_account_owns_keys_and_is_nobody(
    app: Flask, session: OrmSession, funded: Org, cast: dict[str, Person], client: FlaskClient
) -> None:
    carol, bob = cast["carol"], cast["bob"]
    before = counts_of([funded.id])
    status, made = api(carol, "POST", "/service-accounts", {"name": "Builds"})
    assert status == 201
    path = f"/service-accounts/{made['id']}"
    secret = api(carol, "POST", "/keys", {"name": "ci", "ownerId": made["id"]})[1]["secret"]
    assert call(client, secret) == 200
    session.rollback()
    message = session.query(Message).one()
    assert (message.org_id, message.user_id, message.paid_by) == (funded.id, made["id"], "key")
    # no person: neither listed nor counted, and it cannot sign in
    assert counts_of([funded.id])[funded.id]._replace(keys=0) == before[funded.id]
    assert made["id"] not in carol.browser.get("/api/orgs/acme/members").text
    with pytest.raises(Forbidden):
        credentials.open_web(session.get_one(User, made["id"]), now())
    listed = api(bob, "GET", "/service-accounts")[1]["serviceAccounts"]
    assert [(each["name"], each["keyCount"]) for each in listed] == [("Builds", 1)]
    # its keys outlive the browser session of the admin who made them
    assert session.get_one(Session, hash_token(secret)).parent is None

    assert api(carol, "PATCH", path, {"disabled": True})[1]["disabledAt"]
    assert call(client, secret) == 401
    assert api(carol, "POST", "/keys", {"name": "x", "ownerId": made["id"]})[0] == 409
    assert api(carol, "PATCH", path, {"disabled": False, "name": "Nightly"})[1]["disabledAt"] is None
    assert call(client, secret) == 200
    assert api(carol, "DELETE", path) == SUCCESS
    assert api(carol, "DELETE", path)[0] == 404
    assert call(client, secret) == 401
    assert api(bob, "GET", "/service-accounts")[1] == {"serviceAccounts": []}
    session.rollback()
    user = session.get_one(User, made["id"])
    assert api(carol, "POST", "/members", {"email": user.email, "role": "member"})[0] == 404
    assert actions(session) == [
        "service_account.created",
        "key.created",
        "service_account.disabled",
        "service_account.changed",
        "service_account.enabled",
        "service_account.deleted",
    ]


# -- keys ----------------------------------------------------------------------------------------------------


def test_keys_are_listed_moved_and_revoked(
    session: OrmSession, funded: Org, cast: dict[str, Person], client: FlaskClient
) -> None:
    carol, bob, dave = cast["carol"], cast["bob"], cast["dave"]
    secret = api(bob, "POST", "/keys", {"name": "laptop"})[1]["secret"]
    other = api(carol, "POST", "/keys", {"name": "mine"})[1]
    assert call(client, secret) == 200
    mine = api(bob, "GET", "/keys")[1]
    assert [each["name"] for each in mine["keys"]] == ["laptop"]
    assert secret not in str(mine)
    assert mine["keys"][0]["creditsThisMonth"] == session.query(Message).one().credits
    assert [each["name"] for each in api(carol, "GET", "/keys")[1]["keys"]] == ["mine", "laptop"]
    assert api(dave, "GET", "/keys")[1]["keys"] == []
    path = f"/keys/{hash_token(secret)}"
    # another's key does not exist for a member, nor may they hand over their own
    assert api(bob, "DELETE", f"/keys/{other['id']}")[0] == 404
    assert api(bob, "PATCH", path, {"ownerId": carol.id}) == FORBIDDEN
    assert api(carol, "PATCH", path, {"ownerId": dave.id})[0] == 400  # billing makes no calls
    assert api(carol, "PATCH", path, {"ownerId": cast["mallory"].id})[0] == 400
    service = api(carol, "POST", "/service-accounts", {"name": "Builds"})[1]["id"]
    moved = api(carol, "PATCH", path, {"ownerId": service})[1]["owner"]
    assert moved == {"id": service, "name": "Builds", "isServiceAccount": True}
    session.execute(update(OrgMember).where(OrgMember.user_id == bob.id).values(role="viewer"))
    session.commit()
    assert call(client, secret) == 200  # it is no longer bob's
    assert api(bob, "POST", "/keys", {"name": "x"})[0] == 403
    assert api(carol, "DELETE", path) == SUCCESS
    assert call(client, secret) == 401
    assert actions(session) == [
        "key.created",
        "key.created",
        "service_account.created",
        "key.moved",
        "key.revoked",
    ]
    logged = session.scalars(select(AuditLog).where(AuditLog.action == "key.moved")).one()
    assert (logged.before["owner"], logged.after["owner"]) == ("bob", "Builds")
    assert secret not in str([(row.before, row.after, row.subject) for row in session.query(AuditLog)])


def test_a_key_in_the_cookie_makes_and_ends_no_keys(
    app: Flask, session: OrmSession, acme: Org, alice: Person
) -> None:
    assert alice.user is not None
    token = factories.token(alice.user, org_id=acme.id)
    client = app.test_client()
    client.set_cookie("next-auth.session-token", token)
    assert client.post("/api/orgs/acme/keys", json={"name": "x"}).status_code == 401
    assert client.delete(f"/api/orgs/acme/keys/{hash_token(token)}").status_code == 401
    assert session.query(AuditLog).filter_by(action="key.created").count() == 0


def test_a_handed_over_key_does_not_act_as_its_new_owner(
    app: Flask, session: OrmSession, acme: Org, alice: Person, carol: Person
) -> None:
    """Carol, an admin, knows the secret of a key that she gave to the owner."""
    made = api(carol, "POST", "/keys", {"name": "gift"})[1]
    assert api(carol, "PATCH", f"/keys/{made['id']}", {"ownerId": alice.id})[0] == 200
    client = app.test_client()
    client.set_cookie("next-auth.session-token", made["secret"])
    assert client.patch(f"/api/orgs/acme/members/{carol.id}", json={"role": "owner"}).status_code == 401
    for path in ("/api/orgs/acme/members", "/orgs/acme", "/orgs/acme/usage", "/orgs/acme/billing"):
        assert client.get(path).status_code in (302, 401), path
    assert client.post("/api/orgs", json={"name": "Theirs"}).status_code == 401
    session.rollback()
    assert factories.membership(acme, carol.id).role == "admin"


def test_keys_follow_what_changed_meanwhile(
    session: OrmSession, engine: Engine, acme: Org, carol: Person, alice: Person
) -> None:
    """A key ends, and a service account is switched off, after this request has read them."""
    member = factories.membership(acme, carol.id)
    service = create_service_account(acme, carol.id, "Builds")
    made = api(carol, "POST", "/keys", {"name": "laptop"})[1]["id"]
    session.commit()
    listed = org_keys.org_key(member, made)
    by = session.scalars(select(Session).where(Session.user_id == carol.id, Session.type == "web")).one()
    assert service.disabled_at is None
    with engine.begin() as elsewhere:
        elsewhere.execute(update(ServiceAccount).values(disabled_at=now()))
        elsewhere.execute(delete(Session).where(Session.session_token == made))
    with pytest.raises(Conflict, match="switched off"):
        org_keys.create_org_key(acme, member, by=by, name="x", days=1, owner_id=service.user_id, now=now())
    with pytest.raises(NotFound):
        org_keys.move_org_key(member, listed, alice.id, by)
    with pytest.raises(NotFound):
        org_keys.set_key_team(acme, member, listed, None, by)
    session.rollback()


def test_profile_chooses_the_account_that_pays(
    session: OrmSession, acme: Org, bob: Person, client: FlaskClient
) -> None:
    page = bob.browser.get("/profile?tab=api-keys").text
    assert f'<option value="{acme.id}">Acme</option>' in page
    assert send(bob, "/profile/keys", name="", days="30", org=acme.id).status_code == 422
    assert send(bob, "/profile/keys", name="x", days="30", org="other").status_code == 422
    assert send(bob, "/profile/keys", name="work", days="30", org=acme.id).status_code == 303
    assert send(bob, "/profile/keys", name="own", days="30").status_code == 303
    session.rollback()
    keys = {key.name: key for key in session.query(Session).where(Session.name.is_not(None))}
    assert (keys["work"].org_id, keys["own"].org_id) == (acme.id, None)
    assert "Acme" in bob.browser.get("/profile?tab=api-keys").text
    assert send(bob, f"/profile/keys/{keys['work'].session_token}/revocation").status_code == 303
    assert actions(session) == ["key.created", "key.revoked"]


# -- pages ---------------------------------------------------------------------------------------------------


def test_forms_of_teams_services_and_keys(session: OrmSession, acme: Org, alice: Person, bob: Person) -> None:
    factories.save(
        OrgRepo(
            org_id=acme.id, repo_url="https://github.com/acme/site", repo_name="site", approved_by=alice.id
        )
    )
    refused = send(alice, "/orgs/acme/teams", fragment=True, name="everyone")
    assert refused.status_code == 422
    assert "Another team has this name." in refused.text
    team = send(alice, "/orgs/acme/teams", name="Web").headers["Location"]
    bad = send(alice, team, fragment=True, name="Web", models="a b")
    assert bad.status_code == 422
    assert "without spaces" in bad.text
    repo = session.query(OrgRepo).one().id
    saved = send(
        alice, team, name="Web", models="openai/*\nstoa/demo", repositories_only="1", repositories=repo
    )
    assert saved.status_code == 303
    assert send(alice, f"{team}/people", user_id=bob.id).status_code == 303
    page = bob.browser.get(team).text
    assert "openai/*, stoa/demo" in page
    assert "https://github.com/acme/site" in page
    service = send(alice, "/orgs/acme/service-accounts", name="Builds").headers["Location"]
    key = send(alice, "/orgs/acme/keys", name="ci", days="90", owner_id=service.rsplit("/", 1)[1])
    address = key.headers["Location"]
    assert re.fullmatch("/orgs/acme/keys/sk_live_[0-9A-Za-z]{24}/first-call", address)
    shown = alice.browser.get(address).text
    assert "sk_live_" in shown
    assert "Copy your new key now" in shown
    assert "Copy your new key now" not in alice.browser.get(address).text
    assert send(alice, "/orgs/acme/keys", fragment=True, name="", days="400").status_code == 422
    row = session.query(Session).filter_by(name="ci").one()
    url = f"/orgs/acme/keys/{row.session_token}"
    assert send(alice, f"{url}/owner", owner="nobody").status_code == 422
    assert send(alice, f"{url}/owner", owner=bob.id).status_code == 303
    assert send(bob, f"{url}/revocation").status_code == 303
    assert send(alice, f"{service}/state", on="0").status_code == 303
    assert "Switch on" in alice.browser.get(service).text
    assert send(alice, f"{service}/removal").status_code == 303
    assert send(alice, f"{team}/removal").status_code == 303


def test_lists_take_constant_statements(app: Flask, session: OrmSession, acme: Org, alice: Person) -> None:
    assert alice.user is not None

    def statements(path: str) -> int:
        seen: list[str] = []

        def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
            seen.append(statement)

        with app.app_context():
            event.listen(db.engine, "before_cursor_execute", note)
            alice.browser.get(path)
            event.remove(db.engine, "before_cursor_execute", note)
        return len(seen)

    paths = [f"/orgs/acme/{name}" for name in ("teams", "service-accounts", "keys")]
    for path in paths:
        statements(path)
    few = [statements(path) for path in paths]
    with factories.one_commit():
        for number in range(10):
            create_team(acme, f"Team {number}")
            create_service_account(acme, None, f"Service {number}")
            factories.token(alice.user, org_id=acme.id)
    assert [statements(path) for path in paths] == few
