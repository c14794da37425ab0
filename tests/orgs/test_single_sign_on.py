"""Single sign-on of organisations against an issuer and DNS on loopback: domains, sign-in, groups, enforcement."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select, update
from sqlalchemy.orm import Session as OrmSession
from werkzeug.test import TestResponse

from models.accounts import OAuthAccount, Session, User
from models.accounts.credentials import hash_token
from models.core.audit_log import AuditLog
from models.core.errors import Conflict
from models.core.mail import Email
from models.orgs import (
    Org,
    OrgDomain,
    OrgDomainJoining,
    OrgInvite,
    OrgSso,
    OrgSsoSession,
    OrgTeam,
    OrgTeamMember,
    domain_joining,
    invites,
)
from models.orgs.domain_checks import check_domains
from models.orgs.domains import prove
from models.orgs.single_sign_on import ARRIVAL_VALID, EMERGENCY, OrgSsoKey, sso_of_address
from tests import factories
from tests.accounts.browsing import token_of
from tests.factories import Person
from tests.fakes.dns_server import DnsServer

pytestmark = [
    pytest.mark.filterwarnings("ignore::authlib.deprecate.AuthlibDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed:DeprecationWarning"),
]

BASE = "http://localhost:8000"
SETTINGS = "/orgs/acme/settings/sso"
Form = Callable[..., TestResponse]


def browser_of(sso_app: Flask, person: Person) -> FlaskClient:
    """The person's browser, at the application that reaches loopback."""
    made = sso_app.test_client()
    cookie = person.browser.get_cookie("next-auth.session-token")
    assert cookie is not None
    made.set_cookie("next-auth.session-token", cookie.value)
    return made


@pytest.fixture
def hers(sso_app: Flask, alice: Person, acme: Org) -> FlaskClient:
    """The browser of alice, who owns acme."""
    return browser_of(sso_app, alice)


def post(browser: FlaskClient, path: str, **form: str) -> TestResponse:
    """Post a form like a page does."""
    token = token_of(browser.get("/profile?tab=api-keys"))
    return browser.post(path, data={"csrf_token": token, **form})


def prove_domain(session: OrmSession, org: Org, domain: str = "example.org") -> OrgDomain:
    return factories.save(
        OrgDomain(org_id=org.id, domain=domain, token="t", verified_at=factories.now(), verified_by="dns")
    )


@pytest.fixture
def provider(hers: FlaskClient, acme: Org, issuer: str, session: OrmSession) -> OrgSso:
    """Acme's identity provider, entered by its owner, and its proven domain example.org."""
    prove_domain(session, acme)
    saved = post(
        hers,
        SETTINGS,
        issuer=issuer,
        client_id="stoa",
        client_secret="idp-secret",
        group_claim="groups",
        default_role="member",
        joins="1",
    )
    assert saved.status_code == 303, saved.text
    session.expire_all()
    return session.get_one(OrgSso, acme.id)


def through(
    browser: FlaskClient, issuer: str, email: str, path: str = "/login/sso/acme", **claims: Any
) -> TestResponse:
    """Sign in through acme's provider as the person with this address there."""
    requests.put(f"{issuer}/users/{email}", json={"email": email, **claims}, timeout=10).raise_for_status()
    start = browser.get(path)
    assert start.status_code == 302, start.text
    answer = requests.post(start.headers["Location"], data={"sub": email}, allow_redirects=False, timeout=10)
    assert answer.status_code == 302, answer.text
    return browser.get(answer.headers["Location"].removeprefix(BASE))


def email_of(browser: FlaskClient) -> str | None:
    return (browser.get("/api/auth/session").json or {}).get("user", {}).get("email")


def role_of(session: OrmSession, org: Org, email: str) -> str | None:
    from models.orgs import OrgMember

    session.expire_all()
    return session.scalar(
        select(OrgMember.role).join(User).where(OrgMember.org_id == org.id, User.email == email)
    )


def actions(session: OrmSession) -> list[str]:
    return list(session.scalars(select(AuditLog.action).order_by(AuditLog.id)))


# -- domains and settings ------------------------------------------------------------------------------------


def test_a_domain_is_proven_by_its_record(
    hers: FlaskClient, acme: Org, resolver: DnsServer, session: OrmSession
) -> None:
    assert post(hers, "/orgs/acme/settings/domains", domain="nonsense").status_code == 422
    assert post(hers, "/orgs/acme/settings/domains", domain="@Example.ORG.").status_code == 303
    row = session.scalars(select(OrgDomain)).one()
    assert (row.domain, row.verified_at) == ("example.org", None)
    assert row.record_value in hers.get(SETTINGS).text
    proof = f"/orgs/acme/settings/domains/{row.id}/proof"
    for texts in ({}, {row.record_name: ["stoa-domain=other", "x"]}):
        resolver.texts = texts
        assert post(hers, proof).status_code == 303
        session.refresh(row)
        assert row.verified_at is None
    resolver.texts = {row.record_name: ["other", row.record_value]}
    post(hers, proof)
    session.refresh(row)
    assert row.verified_by == "dns"
    assert "Proven" in hers.get(SETTINGS).text
    other = factories.org(factories.user("erin"), "Other")
    theirs = factories.save(OrgDomain(org_id=other.id, domain="example.org", token="t"))
    assert post(hers, f"/orgs/acme/settings/domains/{theirs.id}/proof").status_code == 404
    with pytest.raises(Conflict, match="belongs to another organisation"):
        prove(theirs, "dns", factories.now())
    session.rollback()
    assert post(hers, f"/orgs/acme/settings/domains/{row.id}/removal").status_code == 303
    assert actions(session) == ["domain.added", "domain.verified", "domain.removed"]


def test_a_domain_whose_record_is_gone_is_paused(
    sso_app: Flask,
    hers: FlaskClient,
    acme: Org,
    alice: Person,
    bob: Person,
    resolver: DnsServer,
    provider: OrgSso,
    outbox: list[Email],
    session: OrmSession,
) -> None:
    """After misses over days nobody joins by it, owners get e-mails, and its people enter without the identity provider."""
    row = session.scalars(select(OrgDomain)).one()
    settings, moment = sso_app.extensions["settings"], factories.now()
    factories.save(OrgDomainJoining(org_id=acme.id, domain="example.org", mode="join", role="member"))
    acme.sso_enforced_at = moment
    session.commit()
    newcomer = factories.user("erin")
    resolver.texts = {row.record_name: [row.record_value]}
    with sso_app.app_context():
        assert (check_domains(settings, moment), check_domains(settings, moment)) == (1, 0)
        resolver.texts = {}
        states = []
        for day in range(1, 5):
            check_domains(settings, moment + timedelta(days=day))
            session.refresh(row)
            states.append((row.misses, row.paused_at is not None, len(outbox)))
    assert states == [(1, False, 0), (2, False, 1), (3, False, 1), (4, True, 2)]
    assert {each.to for each in outbox} == {"alice@example.org"}
    assert row.record_value in outbox[1].text
    assert sso_of_address("bob@example.org") is None
    assert domain_joining.open_domains(newcomer) == []
    page = hers.get(SETTINGS)
    assert (page.status_code, "example.org is paused" in page.text) == (200, True)
    assert browser_of(sso_app, bob).get("/orgs/acme").status_code == 200
    # it may have another owner now
    other = factories.org(newcomer, "Other")
    theirs = factories.save(OrgDomain(org_id=other.id, domain="example.org", token="t"))
    prove(theirs, "dns", moment)
    session.rollback()
    resolver.texts = {row.record_name: [row.record_value]}
    assert post(hers, f"/orgs/acme/settings/domains/{row.id}/proof").status_code == 303
    session.refresh(row)
    assert (row.paused_at, row.misses) == (None, 0)
    assert browser_of(sso_app, bob).get("/orgs/acme").status_code == 403
    assert actions(session)[-2:] == ["domain.paused", "domain.resumed"]


def test_an_operator_vouches_for_a_domain(app: Flask, acme: Org, session: OrmSession) -> None:
    result = app.test_cli_runner().invoke(args=["orgs", "prove-domain", "acme", "example.org"])
    assert result.exit_code == 0, result.output
    row = session.scalars(select(OrgDomain)).one()
    vouched = session.scalars(select(AuditLog).order_by(AuditLog.id.desc()).limit(1)).one()
    assert row.verified_by == vouched.actor != "dns"


@pytest.mark.parametrize("who", ["bob", "carol", "dave", "mallory", "anonymous"])
def test_only_owners_see_and_change_the_settings(
    request: pytest.FixtureRequest, acme: Org, session: OrmSession, who: str
) -> None:
    person: Person = request.getfixturevalue(who)
    domain = factories.save(OrgDomain(org_id=acme.id, domain="example.org", token="t"))
    expected = {"mallory": 404, "anonymous": 302}.get(who, 403)
    assert person.browser.get(SETTINGS).status_code == expected
    for path in (
        *(SETTINGS, f"{SETTINGS}/removal", f"{SETTINGS}/groups", f"{SETTINGS}/groups/removal"),
        *(f"{SETTINGS}/enforcement", "/orgs/acme/settings/domains", "/orgs/acme/sso/emergency"),
        *(f"/orgs/acme/settings/domains/{domain.id}/{verb}" for verb in ("proof", "removal")),
    ):
        form = {
            "csrf_token": token_of(
                person.browser.get("/login" if who == "anonymous" else "/profile?tab=api-keys")
            )
        }
        answer = person.browser.post(path, data=form)
        allowed = {expected, 303 if who == "anonymous" else expected}
        if path.endswith("emergency"):
            allowed = {404, 303 if who == "anonymous" else 404}  # there is no single sign-on
        assert answer.status_code in allowed, (path, answer.status_code)
    assert actions(session) == []


def test_an_issuer_is_saved_once_it_answers(
    hers: FlaskClient, acme: Org, issuer: str, session: OrmSession
) -> None:
    good = {"issuer": issuer, "client_id": "stoa", "client_secret": "idp-pass", "default_role": "member"}
    for wrong, says in (
        ({"client_id": ""}, "Enter what your identity provider shows"),
        ({"default_role": "owner"}, "Choose a role"),
        ({"issuer": f"{issuer}/none"}, "No description of an OpenID Connect issuer"),
        ({"issuer": "https://10.0.0.1"}, "not on the public internet"),
        ({"issuer": "javascript:x"}, "No description"),
    ):
        answer = post(hers, SETTINGS, **{**good, **wrong})
        assert (answer.status_code, says in answer.text) == (422, True), (wrong, answer.text[-3000:])
        assert "idp-pass" not in answer.text
    assert post(hers, SETTINGS, **good).status_code == 303
    row = session.scalars(select(OrgSso)).one()
    assert row.client_secret.startswith("sso1:")
    assert "idp-pass" not in hers.get(SETTINGS).text
    entry = session.scalars(select(AuditLog).where(AuditLog.action == "sso.changed")).one()
    assert (entry.after["client_secret"], entry.actor) == ("changed", "alice@example.org")


# -- sign-in -------------------------------------------------------------------------------------------------


def test_a_work_address_leads_to_the_provider(
    sso_app: Flask, provider: OrgSso, issuer: str, outbox: list[Email]
) -> None:
    browser = sso_app.test_client()
    token = token_of(browser.get("/login"))
    for address in ("Bob@Example.org", "new@example.org"):
        answer = browser.post("/login", data={"csrf_token": token, "email": address, "next": "/runs"})
        assert answer.headers["Location"].startswith("/login/sso/acme?next=/runs&login_hint=")
    away = urlsplit(browser.get(answer.headers["Location"]).headers["Location"])
    query = parse_qs(away.query)
    assert f"{away.scheme}://{away.netloc}" == issuer
    assert query["redirect_uri"] == [f"{BASE}/login/sso/{provider.org_id}/callback"]
    assert (query["login_hint"], query["code_challenge_method"]) == (["new@example.org"], ["S256"])
    browser.post("/login", data={"csrf_token": token, "email": "bob@example.org", "way": "link"})
    browser.post("/login", data={"csrf_token": token, "email": "bob@elsewhere.org"})
    assert [message.to for message in outbox] == ["bob@example.org", "bob@elsewhere.org"]
    assert browser.get("/login/sso/none").status_code == 404


def test_a_colleague_becomes_a_user_and_a_member(
    sso_app: Flask, provider: OrgSso, acme: Org, issuer: str, session: OrmSession
) -> None:
    browser = sso_app.test_client()
    answer = through(browser, issuer, "Erin@example.org", name="Erin")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/orgs/acme")
    assert email_of(browser) == "erin@example.org"
    assert role_of(session, acme, "erin@example.org") == "member"
    assert browser.get("/orgs/acme").status_code == 200
    added = session.scalars(select(AuditLog).where(AuditLog.action == "member.joined")).one()
    assert (added.org_id, added.actor, added.after) == (acme.id, "erin@example.org", {"role": "member"})
    through(sso_app.test_client(), issuer, "Erin@example.org")
    assert actions(session).count("member.joined") == 1


def test_the_provider_speaks_for_its_domains_only(
    sso_app: Flask, provider: OrgSso, acme: Org, issuer: str, session: OrmSession, bob: Person
) -> None:
    victim = factories.user("victim", email="victim@elsewhere.org")
    browser = sso_app.test_client()
    through(browser, issuer, "victim@elsewhere.org")
    assert email_of(browser) is None
    # whoever has moved to another address is no longer the provider's to sign in
    through(browser, issuer, "bob@example.org")
    assert email_of(browser) == "bob@example.org"
    session.execute(update(User).where(User.id == bob.id).values(email="bob@private.org"))
    session.commit()
    again = sso_app.test_client()
    through(again, issuer, "bob@example.org")
    assert email_of(again) is None
    # a guest confirms the address they are signed in with, and is no member by that
    theirs = sso_app.test_client()
    theirs.set_cookie("next-auth.session-token", factories.token(victim, type="web"))
    through(theirs, issuer, "victim@elsewhere.org")
    assert role_of(session, acme, "victim@elsewhere.org") is None
    assert session.scalars(select(OAuthAccount.user_id)).all() == [bob.id]


def test_who_may_not_join_is_told(
    sso_app: Flask, provider: OrgSso, acme: Org, issuer: str, session: OrmSession, alice: Person
) -> None:
    session.execute(update(OrgSso).values(joins=False))
    session.commit()
    browser = sso_app.test_client()
    answer = through(browser, issuer, "erin@example.org")
    assert "not a member of Acme" in browser.get(answer.headers["Location"]).text
    assert (email_of(browser), session.scalar(select(User).where(User.email == "erin@example.org"))) == (
        None,
        None,
    )
    factories.save(
        OrgInvite(
            org_id=acme.id,
            email="erin@example.org",
            role="billing",
            token="invite",
            invited_by=alice.id,
            expires_at=factories.now() + EMERGENCY,
        )
    )
    through(browser, issuer, "erin@example.org")
    assert role_of(session, acme, "erin@example.org") == "billing"
    invite = session.scalars(select(OrgInvite)).one()
    session.refresh(invite)
    assert invite.accepted_at is not None


def test_groups_grant_roles_and_teams(
    hers: FlaskClient, sso_app: Flask, provider: OrgSso, acme: Org, issuer: str, session: OrmSession
) -> None:
    team = factories.save(OrgTeam(org_id=acme.id, name="Platform"))
    assert post(hers, f"{SETTINGS}/groups", group="staff", role="viewer").status_code == 303
    assert post(hers, f"{SETTINGS}/groups", group="leads", role="admin", team_id=team.id).status_code == 303
    for wrong in ({"group": ""}, {"group": "x"}, {"group": "x", "role": "owner"}):
        assert post(hers, f"{SETTINGS}/groups", **wrong).status_code == 422
    assert "leads" in hers.get(SETTINGS).text
    teams = select(OrgTeamMember.team_id)
    for groups, role, joined in (
        (["staff", "leads"], "admin", [team.id]),
        ("staff", "viewer", []),
        ({"not": "a list"}, "viewer", []),
    ):
        through(sso_app.test_client(), issuer, "erin@example.org", groups=groups)
        assert role_of(session, acme, "erin@example.org") == role
        assert list(session.scalars(teams)) == joined
    through(sso_app.test_client(), issuer, "alice@example.org", groups=["staff"])
    assert role_of(session, acme, "alice@example.org") == "owner"
    assert post(hers, f"{SETTINGS}/groups/removal", group="leads").status_code == 303


def test_a_wrong_answer_signs_nobody_in(sso_app: Flask, provider: OrgSso, acme: Org, issuer: str) -> None:
    browser = sso_app.test_client()
    callback = f"/login/sso/{acme.id}/callback"
    assert browser.get("/login/sso/%00").status_code == 404
    for query in ("", "?code=x&state=y", "?error=access_denied&state=y"):
        assert browser.get(callback + query).headers["Location"] == "/login?way=link"
    assert browser.get("/login/sso/none/callback").status_code == 404
    assert email_of(browser) is None


# -- enforcement ---------------------------------------------------------------------------------------------


@pytest.fixture
def enforced(hers: FlaskClient, provider: OrgSso, issuer: str, session: OrmSession, acme: Org) -> None:
    """Acme enforces single sign-on; alice came through it."""
    refused = post(hers, f"{SETTINGS}/enforcement", enforced="1")
    assert refused.status_code == 409
    assert "Sign in through the identity provider once" in refused.text
    through(hers, issuer, "alice@example.org")
    assert post(hers, f"{SETTINGS}/enforcement", enforced="1").status_code == 303


def test_a_dry_run_lists_who_would_be_locked_out(
    hers: FlaskClient, provider: OrgSso, acme: Org, session: OrmSession, issuer: str, carol: Person
) -> None:
    factories.join(acme, factories.user("guest", email="guest@elsewhere.org").id)
    through(hers, issuer, "alice@example.org")
    page = hers.get(SETTINGS).text
    assert "would lock out 1 of 4 people" in page
    assert (
        page.index("guest@elsewhere.org")
        < page.index("bob@example.org")
        < page.index("has signed in through it<")
    )


@pytest.mark.usefixtures("enforced")
def test_enforcement_closes_pages_and_routes_to_other_sessions(
    sso_app: Flask, acme: Org, issuer: str, bob: Person, mallory: Person, session: OrmSession
) -> None:
    browser = browser_of(sso_app, bob)
    page = browser.get("/orgs/acme?x=1")
    assert page.status_code == 403
    assert "/login/sso/acme?next=/orgs/acme?x%3D1" in page.text.replace("%2F", "/").replace("%3F", "?")
    assert "Enter as owner" not in page.text
    assert browser_of(sso_app, mallory).get("/orgs/acme").status_code == 404
    before = browser.get_cookie("next-auth.session-token")
    through(browser, issuer, "bob@example.org")
    assert browser.get_cookie("next-auth.session-token") == before
    assert browser.get("/orgs/acme").status_code == 200
    session.execute(update(OrgSsoSession).values(created_at=factories.now() - ARRIVAL_VALID))
    session.commit()
    assert browser.get("/orgs/acme").status_code == 403
    through(browser, issuer, "bob@example.org")
    assert browser.get("/orgs/acme").status_code == 200


@pytest.mark.usefixtures("enforced")
def test_enforcement_covers_money_and_json(
    sso_app: Flask, acme: Org, issuer: str, carol: Person, alice: Person
) -> None:
    browser = browser_of(sso_app, carol)
    assert (browser.get("/orgs/acme/billing").status_code, browser.get("/orgs/acme/keys").status_code) == (
        403,
        403,
    )
    assert "has its own sign-in" in browser.get("/orgs/acme/billing").text
    told = browser.get("/api/orgs/acme/audit")
    assert (told.status_code, "/login/sso/acme" in told.text) == (403, True)
    key = sso_app.test_client()
    assert alice.user is not None
    key.set_cookie("next-auth.session-token", factories.token(alice.user, org_id=acme.id))
    assert key.get("/orgs/acme/keys").status_code == 302  # no session
    through(browser, issuer, "carol@example.org")
    assert browser.get("/api/orgs/acme/audit").status_code == 200


def test_personal_keys_are_authorised_in_a_session_that_came_through(
    sso_app: Flask,
    hers: FlaskClient,
    bob: Person,
    issuer: str,
    provider: OrgSso,
    acme: Org,
    session: OrmSession,
) -> None:
    """On the page, or by being made there; never by another session, and no key of somebody else."""
    page, his, mine = "/orgs/acme/personal-keys", browser_of(sso_app, bob), hash_token(bob.token)
    acme.sso_enforced_at = factories.now()
    session.commit()
    assert (his.get(page).status_code, post(his, page, key=mine).status_code) == (403, 403)
    through(his, issuer, "bob@example.org")
    assert his.get(page).text.count("Not authorised") == 1
    assert "requires single sign-on" in his.get("/profile?tab=api-keys").text
    assert post(his, page, key="other").status_code == 404
    assert post(his, page, key=mine).status_code == 303
    assert post(his, "/profile/keys", name="laptop", days="30").status_code == 303
    session.rollback()
    keys = session.scalars(select(OrgSsoKey.user_id)).all()
    assert keys == [bob.id, bob.id]
    assert post(his, page, key=mine, withdraw="1").status_code == 303
    assert session.scalars(select(OrgSsoKey.session_token)).all() != [mine]
    assert [each for each in actions(session) if each.startswith("sso.key")] == [
        "sso.key_authorized",
        "sso.key_authorized",
        "sso.key_withdrawn",
    ]


@pytest.mark.usefixtures("enforced")
def test_an_invitation_is_accepted_through_the_provider(
    sso_app: Flask, acme: Org, issuer: str, session: OrmSession, alice: Person, outbox: list[Email]
) -> None:
    assert alice.user is not None
    people = [factories.user("erin"), factories.user("guest", email="guest@elsewhere.org")]
    invited = [invites.invite(acme, each.email, "viewer", alice.user, factories.now()) for each in people]
    session.commit()
    for person, sent in zip(people, invited, strict=True):
        browser = sso_app.test_client()
        browser.set_cookie("next-auth.session-token", factories.token(person, type="web"))
        path = f"/invites/{sent.token}"
        told = browser.post(f"/api{path}")
        assert (told.status_code, "/login/sso/acme" in told.text) == (403, True)
        page = post(browser, f"{path}/acceptance")
        assert (page.status_code, "/login/sso/acme?next=/invites/" in page.text) == (403, True)
        answer = through(browser, issuer, person.email, f"/login/sso/acme?next={path}")
        assert answer.headers["Location"] == "/orgs/acme"
        assert role_of(session, acme, person.email) == "viewer"
        assert browser.get("/orgs/acme").status_code == 200


@pytest.mark.usefixtures("enforced")
def test_an_owner_enters_in_an_emergency(
    sso_app: Flask, acme: Org, alice: Person, carol: Person, outbox: list[Email], session: OrmSession
) -> None:
    browser = sso_app.test_client()
    assert alice.user is not None
    browser.set_cookie("next-auth.session-token", factories.token(alice.user, type="web"))
    page = browser.get("/orgs/acme")
    assert "Enter as owner for an hour" in page.text
    form = {"csrf_token": token_of(page)}
    assert browser.post("/orgs/acme/sso/emergency", data=form).status_code == 303
    assert browser.get("/orgs/acme").status_code == 200
    assert "You are in without the identity provider" in browser.get(SETTINGS).text
    assert [message.to for message in outbox] == ["alice@example.org", "carol@example.org"]
    assert actions(session)[-1] == "sso.bypassed"
    mark = session.scalars(select(OrgSsoSession).where(OrgSsoSession.emergency_until.is_not(None))).one()
    past = factories.now() - EMERGENCY
    mark.created_at, mark.emergency_until = past - EMERGENCY, past
    session.commit()
    assert browser.get("/orgs/acme").status_code == 403
    other = browser_of(sso_app, carol)
    form = {"csrf_token": token_of(other.get("/profile?tab=api-keys"))}
    assert other.post("/orgs/acme/sso/emergency", data=form).status_code == 403


@pytest.mark.usefixtures("enforced")
def test_removing_the_provider_opens_the_organisation(
    hers: FlaskClient, sso_app: Flask, bob: Person, acme: Org, session: OrmSession
) -> None:
    assert post(hers, f"{SETTINGS}/enforcement").status_code == 303
    assert browser_of(sso_app, bob).get("/orgs/acme").status_code == 200
    assert post(hers, f"{SETTINGS}/removal").status_code == 303
    assert session.scalars(select(OAuthAccount)).all() == []
    assert session.scalars(select(Session)).all() != []
    assert actions(session)[-3:] == ["sso.enforced", "sso.made_optional", "sso.removed"]
