"""SCIM 2.0: a real client and its tester, the forms of Entra ID and Okta, and what follows in the organisation."""

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from scim2_client.engines.wsgi import WSGISCIMClient
from scim2_models import PatchOp, SCIMException, SearchRequest
from scim2_tester import Status, check_server
from sqlalchemy import select, text
from sqlalchemy.orm import Session as OrmSession

from models.accounts import Session
from models.accounts.signing_in import sign_in_verified_email
from models.core.audit_log import AuditLog
from models.orgs import Org, OrgDomain, OrgMember, OrgTeam, OrgTeamMember, ScimToken
from models.orgs.directory import create_scim_token
from models.orgs.single_sign_on import set_group
from tests import factories
from tests.accounts.browsing import token_of
from tests.factories import Person
from tests.usage.test_usage_pages import recorded_statements

USER = "urn:ietf:params:scim:schemas:core:2.0:User"
GROUP = "urn:ietf:params:scim:schemas:core:2.0:Group"
PATCH = "urn:ietf:params:scim:api:messages:2.0:PatchOp"
ENTERPRISE = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"


class Directory:
    """A directory that calls the organisation's routes."""

    def __init__(self, app: Flask, key: str, token: str) -> None:
        self.browser: FlaskClient = app.test_client()
        self.root, self.headers = f"/scim/v2/{key}", {"Authorization": f"Bearer {token}"}

    def call(self, method: str, path: str, json: Any = None, status: int = 200) -> Any:
        """The body of the answer, which has this status."""
        answer = self.browser.open(f"{self.root}{path}", method=method, json=json, headers=self.headers)
        assert answer.status_code == status, answer.text
        assert answer.mimetype == "application/scim+json" or status == 204
        return answer.json if status != 204 else None

    def user(self, name: str, **more: Any) -> str:
        """Create a user; returns the id."""
        return self.call("POST", "/Users", {"schemas": [USER], "userName": name, **more}, 201)["id"]

    def patch(self, path: str, *operations: dict[str, Any], status: int = 200) -> Any:
        return self.call("PATCH", path, {"schemas": [PATCH], "Operations": list(operations)}, status)


@pytest.fixture
def token(acme: Org, session: OrmSession) -> str:
    session.add(
        OrgDomain(
            org_id=acme.id, domain="example.org", token="t", verified_at=factories.now(), verified_by="dns"
        )
    )
    made = create_scim_token(acme.id, "alice@example.org")
    session.commit()
    return made


@pytest.fixture
def directory(app: Flask, acme: Org, token: str) -> Directory:
    return Directory(app, acme.slug, token)


@pytest.fixture
def scim(app: Flask, acme: Org, token: str) -> WSGISCIMClient:
    """A real client that has read what the service says of itself."""
    url = f"http://localhost:8000/scim/v2/{acme.id}"
    client = WSGISCIMClient(app, base_url=url, headers={"Authorization": f"Bearer {token}"})
    client.discover()
    return client


def people(session: OrmSession, org: Org) -> dict[str, str]:
    """The roles of the members by address."""
    from models.accounts import User as Account

    session.expire_all()
    query = select(Account.email, OrgMember.role).join(OrgMember).where(OrgMember.org_id == org.id)
    return {row.email: row.role for row in session.execute(query)}


def team_of(session: OrmSession, org: Org, name: str) -> set[str]:
    session.expire_all()
    query = select(OrgTeamMember.user_id).join(OrgTeam, OrgTeam.id == OrgTeamMember.team_id)
    return set(session.scalars(query.where(OrgTeam.org_id == org.id, OrgTeam.name == name)))


def test_the_tester_finds_the_service_described(app: Flask, scim: WSGISCIMClient) -> None:
    results = check_server(scim, include_tags={"discovery", "misc"})
    assert [each.reason for each in results if each.status is Status.ERROR] == []
    assert sum(each.status is Status.SUCCESS for each in results) > 20


def test_a_real_client_creates_finds_changes_and_deletes(scim: WSGISCIMClient) -> None:
    user_type, group_type = scim.get_resource_model("User"), scim.get_resource_model("Group")
    assert user_type is not None
    assert group_type is not None
    made = scim.create(user_type(user_name="erin@example.org", display_name="Erin", external_id="e-1"))
    for filter in (
        'userName eq "ERIN@example.org"',
        'externalId eq "e-1"',
        'displayName sw "Er" and active eq true',
        f'id eq "{made.id}"',
    ):
        found = scim.query(user_type, query_parameters=SearchRequest(filter=filter))
        assert [each.id for each in found.resources] == [made.id], filter
    assert scim.query(user_type, query_parameters=SearchRequest(filter='userName eq "x"')).total_results == 0
    for number in range(4):
        scim.create(user_type(user_name=f"user-{number}"))
    page = scim.query(user_type, query_parameters=SearchRequest(start_index=2, count=2))
    assert (page.total_results, page.items_per_page, page.start_index) == (5, 2, 2)
    with pytest.raises(SCIMException, match="Another user has the userName"):
        scim.create(user_type(user_name="Erin@Example.org"))
    made.display_name = "Erin E."
    assert scim.replace(made).display_name == "Erin E."
    group = scim.create(group_type(display_name="Platform", members=[{"value": made.id}]))
    assert [each.display for each in scim.query(user_type, made.id).groups] == ["Platform"]
    change = PatchOp[group_type](operations=[{"op": "remove", "path": "members"}])
    assert scim.modify(group_type, group.id, change).members is None
    scim.delete(user_type, made.id)
    with pytest.raises(SCIMException, match="not found"):
        scim.query(user_type, made.id)


def test_members_come_and_go_with_the_directory(
    app: Flask, acme: Org, bob: Person, directory: Directory, session: OrmSession
) -> None:
    carl = factories.user("carl")
    waiting = directory.user("dora@example.org")
    directory.user("stranger@elsewhere.org")
    id = directory.user(
        "c",
        emails=[{"value": "c@elsewhere.org", "type": "home"}, {"value": "Carl@example.org", "primary": True}],
    )
    assert people(session, acme)["carl@example.org"] == "member"
    assert "dora@example.org" not in people(session, acme)
    # an account that is made later joins at once
    sign_in_verified_email("dora@example.org", factories.now(), free_credits=1)
    session.commit()
    assert people(session, acme)["dora@example.org"] == "member"
    factories.token(carl, org_id=acme.id)
    directory.patch(f"/Users/{id}", {"op": "Replace", "path": "active", "value": "False"})
    assert "carl@example.org" not in people(session, acme)
    assert session.scalars(select(Session).where(Session.user_id == carl.id)).all() == []
    assert directory.call("GET", f"/Users/{id}")["active"] is False
    directory.patch(f"/Users/{id}", {"op": "replace", "value": {"active": True}})
    assert people(session, acme)["carl@example.org"] == "member"
    directory.call("DELETE", f"/Users/{waiting}", status=204)
    assert set(people(session, acme)) == {"alice@example.org", "bob@example.org", "carl@example.org"}
    log = session.scalars(select(AuditLog).where(AuditLog.org_id == acme.id)).all()
    hint = session.scalars(select(ScimToken.hint)).one()
    actors = {each.actor for each in log if each.action.startswith("member.")}
    assert actors == {f"directory {hint}", "system"}


def test_the_last_owner_stays(acme: Org, alice: Person, directory: Directory, session: OrmSession) -> None:
    id = directory.user("alice@example.org")
    refused = directory.patch(f"/Users/{id}", {"op": "replace", "path": "active", "value": False}, status=409)
    assert "at least one owner" in refused["detail"]
    assert directory.call("GET", f"/Users/{id}")["active"] is True
    assert people(session, acme)["alice@example.org"] == "owner"


def test_service_accounts_are_none_of_the_directorys(
    acme: Org, directory: Directory, session: OrmSession
) -> None:
    robot = factories.user("robot", email="robot@service-account.invalid")
    factories.join(acme, robot.id, "service")
    id = directory.user(robot.email)
    directory.patch(f"/Users/{id}", {"op": "replace", "path": "active", "value": False})
    assert people(session, acme)[robot.email] == "service"


def test_groups_fill_teams_and_grant_roles(
    acme: Org, bob: Person, carol: Person, directory: Directory, session: OrmSession
) -> None:
    set_group(acme.id, "Leads", "admin", "")
    session.commit()
    his, hers = directory.user("bob@example.org"), directory.user("carol@example.org")
    body = {"schemas": [GROUP], "displayName": "Leads", "externalId": "g1", "members": [{"value": his}]}
    group = directory.call("POST", "/Groups", body, 201)
    path = f"/Groups/{group['id']}"
    assert team_of(session, acme, "Leads") == {bob.id}
    assert people(session, acme)["bob@example.org"] == "admin"
    forms: list[tuple[dict[str, Any], set[str]]] = [
        ({"op": "Add", "path": "members", "value": [{"value": hers}]}, {bob.id, carol.id}),
        ({"op": "Remove", "path": "members", "value": [{"value": his}]}, {carol.id}),
        ({"op": "add", "path": "members", "value": [{"value": his, "display": "Bob"}]}, {bob.id, carol.id}),
        ({"op": "remove", "path": f'members[value eq "{hers}"]'}, {bob.id}),
        ({"op": "replace", "path": "members", "value": [{"value": hers}]}, {carol.id}),
        ({"op": "replace", "value": {"id": group["id"], "displayName": "Leads"}}, {carol.id}),
    ]
    for operation, members in forms:
        directory.patch(path, operation)
        assert team_of(session, acme, "Leads") == members, operation
    assert (
        directory.patch(path, {"op": "replace", "value": {"displayName": "Heads"}})["displayName"] == "Heads"
    )
    assert (team_of(session, acme, "Leads"), team_of(session, acme, "Heads")) == (set(), {carol.id})
    factories.save(OrgTeam(org_id=acme.id, name="Chiefs"))
    directory.patch(path, {"op": "replace", "value": {"displayName": "chiefs"}})
    assert (team_of(session, acme, "Heads"), team_of(session, acme, "Chiefs")) == (set(), {carol.id})
    found = directory.call("GET", '/Groups?filter=displayName eq "CHIEFS"&excludedAttributes=members')
    assert (found["totalResults"], "members" in found["Resources"][0]) == (1, False)
    directory.call("DELETE", path, status=204)
    assert team_of(session, acme, "Chiefs") == set()


def test_forms_of_entra_and_okta(directory: Directory) -> None:
    id = directory.user("erin@example.org", unknown=1, title="Dr", password="no")
    path = f"/Users/{id}"
    directory.patch(path, {"op": "Add", "path": 'emails[type eq "work"].value', "value": "w@example.org"})
    directory.patch(path, {"op": "Add", "path": f"{ENTERPRISE}:manager", "value": "boss"})
    directory.patch(path, {"op": "Replace", "path": f"{ENTERPRISE}:department", "value": "R&D"})
    directory.patch(path, {"op": "Replace", "value": {"name.familyName": "E", "id": id}})
    found = directory.call("GET", path)
    assert found["emails"] == [{"type": "work", "value": "w@example.org"}]
    assert found[ENTERPRISE] == {"manager": {"value": "boss"}, "department": "R&D"}
    assert (found["name"], found["title"]) == ({"familyName": "E"}, "Dr")
    assert {"password", "unknown"} & set(found) == set()


def test_requests_that_are_wrong_are_told(
    app: Flask, acme: Org, directory: Directory, token: str, session: OrmSession
) -> None:
    id = directory.user("erin@example.org")
    for method, path, body, status, kind in (
        ("GET", "/Users?filter=userName xx 1", None, 400, "invalidFilter"),
        ("GET", "/Users?filter=nothing eq 1", None, 400, "invalidFilter"),
        ("GET", "/Users?count=many", None, 400, "invalidValue"),
        ("POST", "/Users", [], 400, "invalidSyntax"),
        ("POST", "/Users", {"schemas": [USER]}, 400, "invalidValue"),
        ("PATCH", f"/Users/{id}", {"schemas": [PATCH], "Operations": [{"op": "move"}]}, 400, "invalidValue"),
        ("PATCH", f"/Users/{id}", {"schemas": [PATCH]}, 400, "invalidValue"),
        ("POST", "/Users", {"schemas": [USER], "userName": " "}, 400, "invalidValue"),
        ("POST", "/Users", {"schemas": [USER], "userName": "é" * 501}, 400, "invalidValue"),
        ("POST", "/Users", {"schemas": [USER], "userName": "a\0"}, 400, "invalidSyntax"),
        ("POST", "/Groups", {"schemas": [GROUP], "displayName": ""}, 400, "invalidValue"),
        ("GET", '/Users?filter=userName eq "%00"', None, 400, "invalidFilter"),
        ("GET", f"/Users?filter={'(' * 300}", None, 400, "invalidFilter"),
        ("POST", "/Groups", {"schemas": [GROUP], "displayName": "G", "members": [{"value": "x"}]}, 404, None),
        ("GET", "/Users/none", None, 404, None),
        ("GET", "/Nothing", None, 404, None),
        ("DELETE", "/Users", None, 405, None),
    ):
        answer = directory.call(method, path, body, status)
        assert answer.get("scimType") == kind, (path, answer)
        assert (answer["status"], bool(answer["detail"])) == (str(status), True)
    assert directory.call("GET", "/Users?startIndex=99999999999999999999&count=-1")["totalResults"] == 1
    for path in ("/Users/%00", "/%00"):
        assert directory.browser.get(directory.root + path, headers=directory.headers).status_code == 404
    other = factories.org(factories.user("erin2"), "Other")
    session.commit()
    for key, secret in ((other.id, token), (acme.id, "stoa-scim-wrong"), (acme.id, ""), ("none", token)):
        Directory(app, key, secret).call("GET", "/Users", status=401)
    theirs = Directory(app, other.id, create_scim_token(other.id, "x"))
    session.commit()
    theirs.call("GET", f"/Users/{id}", status=404)
    theirs.call("DELETE", f"/Users/{id}", status=404)
    assert theirs.call("GET", "/Users")["totalResults"] == 0


def test_owners_make_and_revoke_tokens(
    app: Flask, acme: Org, alice: Person, carol: Person, session: OrmSession
) -> None:
    def send(person: Person, path: str, **form: str) -> Any:
        found = token_of(person.browser.get("/profile?tab=api-keys"))
        return person.browser.post(f"/orgs/acme/settings/{path}", data={"csrf_token": found, **form})

    assert send(carol, "scim-tokens").status_code == 403
    page = send(alice, "scim-tokens")
    assert page.headers["Cache-Control"] == "no-store"
    shown = page.text.partition("stoa-scim-")[2][:64]
    directory = Directory(app, "acme", f"stoa-scim-{shown}")
    directory.user("erin@example.org")
    row = session.scalars(select(ScimToken)).one()
    assert shown not in (row.token_hash, row.hint)
    settings = alice.browser.get("/orgs/acme/settings/sso").text
    assert shown not in settings
    assert "1 have no access" in settings
    assert send(alice, "scim-tokens/removal", token="none").status_code == 404
    assert send(alice, "scim-tokens/removal", token=row.token_hash).status_code == 303
    directory.call("GET", "/Users", status=401)
    actions = session.scalars(select(AuditLog.action).order_by(AuditLog.id)).all()
    assert [each for each in actions if each.startswith("scim")] == [
        "scim_token.created",
        "scim_token.revoked",
    ]


def test_what_a_directory_asks_is_bounded(directory: Directory) -> None:
    group = directory.call("POST", "/Groups", {"schemas": [GROUP], "displayName": "Dev"}, 201)["id"]
    add = {"op": "add", "path": "members", "value": []}
    directory.patch(f"/Groups/{group}", *[add] * 201, status=413)
    directory.call("PATCH", f"/Groups/{group}", {"schemas": [PATCH], "Operations": 5}, 400)
    wide = "%20or%20".join(['userName%20co%20"a"'] * 200)
    assert directory.call("GET", f"/Users?filter={wide}", status=400)["scimType"] == "invalidFilter"
    nul = directory.call("GET", '/Users?filter=userName%20eq%20"a\\u0000"')
    assert nul["totalResults"] == 0


def test_an_account_stays_who_it_is_in_the_directory(
    app: Flask, acme: Org, directory: Directory, session: OrmSession
) -> None:
    """A new address changes nothing until another account has it; that one takes the place of the first."""
    factories.user("carl")
    factories.user("dora")
    path = f"/Users/{directory.user('carl@example.org', externalId='c')}"

    def named(address: str) -> set[str]:
        directory.patch(path, {"op": "replace", "value": {"userName": address}})
        return set(people(session, acme)) - {"alice@example.org", "bob@example.org"}

    assert named("carl.new@example.org") == {"carl@example.org"}
    directory.patch(path, {"op": "replace", "value": {"active": False}})
    assert "carl@example.org" not in people(session, acme)
    directory.patch(path, {"op": "replace", "value": {"active": True}})
    assert named("dora@example.org") == {"dora@example.org"}
    assert named("eve@example.org") == {"dora@example.org"}
    sign_in_verified_email("eve@example.org", factories.now(), free_credits=1)
    session.commit()
    assert named("eve@example.org") == {"eve@example.org"}


def test_large_directories_take_few_statements(
    app: Flask, acme: Org, directory: Directory, session: OrmSession
) -> None:
    """A group of many members is as many statements as one of few; filters without an index look through a bounded number."""
    set_group(acme.id, "Everybody", "viewer", "")
    query = (
        'WITH u AS (INSERT INTO "user" (id, email, "emailVerified")'
        " SELECT 'u' || n, 'u' || n || '@example.org', now() FROM generate_series(1, :n) n RETURNING id, email),"
        " m AS (INSERT INTO org_member (org_id, user_id, role) SELECT :org, id, 'member' FROM u)"
        " INSERT INTO scim_user (id, org_id, user_name, email, active, attributes)"
        " SELECT id, :org, email, email, true, jsonb_build_object('schemas', jsonb_build_array(CAST(:schema AS text)), 'userName', email) FROM u"
    )
    session.execute(text(query), {"n": 1_001, "org": acme.id, "schema": USER})
    session.commit()
    body = {
        "schemas": [GROUP],
        "displayName": "Crowd",
        "members": [{"value": f"u{n}"} for n in range(1, 1001)],
    }
    with recorded_statements(app) as statements:
        path = f"/Groups/{directory.call('POST', '/Groups', body, 201)['id']}"
    assert len(team_of(session, acme, "Crowd")) == 1_000
    assert len(statements) < 40
    with recorded_statements(app) as statements:
        directory.patch(path, {"op": "remove", "path": "members"})
    assert len(statements) < 40
    assert team_of(session, acme, "Crowd") == set()
    for filter in ('userName co "u1"', "userName pr", 'displayName eq "x"', 'not (userName eq "u1")'):
        refused = directory.call("GET", f"/Users?filter={filter}", status=400)
        assert (refused["scimType"], "1,000" in refused["detail"]) == ("tooMany", True)
    found = directory.call("GET", '/Users?filter=userName eq "u7@example.org" and active eq true')
    assert [each["id"] for each in found["Resources"]] == ["u7"]
    search = {"schemas": ["urn:ietf:params:scim:api:messages:2.0:SearchRequest"]}
    assert directory.call("POST", "/.search", search, 400)["scimType"] == "tooMany"
