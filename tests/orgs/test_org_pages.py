"""Pages of organisations without JavaScript: access by role, forms, the switcher, archive, features."""

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import event, select
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session as OrmSession

from models.assistants import create_assistant
from models.core.audit_log import AuditLog
from models.core.db import db, extension
from models.ledger import Account, budgets
from models.orgs import Org, OrgMember, OrgRepo, org_repos
from models.orgs.features import feature_config, feature_on
from models.threads import append, create_thread
from tests import factories
from tests.factories import Person
from tests.orgs.forms import FRAGMENT, send

MEMBERS, ADMINS, OWNERS = "alice carol bob dave", "alice carol", "alice"
PAGES = {
    "": MEMBERS,
    "/team": MEMBERS,
    "/departure": MEMBERS,
    "/repositories": MEMBERS,
    "/team/{bob}/removal": ADMINS,
    "/repositories/{repo}/removal": ADMINS,
    "/settings": ADMINS,
    "/ownership": OWNERS,
    "/deletion": OWNERS,
    "/archive.zip": OWNERS,
}
FORMS: dict[str, tuple[str, dict[str, str]]] = {
    "/team": (ADMINS, {"email": "nobody@example.org", "role": "member"}),
    "/team/{bob}/role": (ADMINS, {"role": "viewer"}),
    "/team/{nobody}/removal": (ADMINS, {}),
    "/repositories": (ADMINS, {"repository_url": "https://example.org/a/b"}),
    "/repositories/{repo}/activity": (ADMINS, {"active": "0"}),
    "/repositories/{nobody}/removal": (ADMINS, {}),
    "/settings": (ADMINS, {"name": "x"}),
    "/ownership": (OWNERS, {"typed": "wrong"}),
    "/deletion": (OWNERS, {"typed": "wrong"}),
}


@pytest.fixture
def site(acme: Org, alice: Person, session: OrmSession) -> OrgRepo:
    assert alice.user
    repo = org_repos.add(acme, alice.user, "https://github.com/acme/site")
    session.commit()
    return repo


def actions(session: OrmSession) -> list[str]:
    session.expire_all()
    return list(session.scalars(select(AuditLog.action).order_by(AuditLog.id)))


def test_pages_and_forms_follow_the_matrix(
    acme: Org, site: OrgRepo, cast: dict[str, Person], session: OrmSession
) -> None:
    factories.publisher(acme, "acme-tools")
    ids = {"bob": cast["bob"].id, "repo": site.id, "nobody": "nobody"}
    for name, person in cast.items():
        outside = {"anonymous": {302, 303}, "mallory": {404}}.get(name)
        for path, who in PAGES.items():
            status = person.browser.get("/orgs/acme" + path.format(**ids)).status_code
            assert status in (outside or ({200} if name in who.split() else {403})), (name, path)
        for path, (who, form) in FORMS.items():
            status = send(person, "/orgs/acme" + path.format(**ids), **form).status_code
            if outside or name not in who.split():
                # without a CSRF token for the signed-in, the anonymous are refused or sent to sign-in
                assert status in (outside or {403}) | ({400} if name == "anonymous" else set()), (name, path)
            else:
                assert status in (303, 404, 422), (name, path)


def test_nul_in_an_address_is_not_found(acme: Org, alice: Person) -> None:
    for path in ("/orgs/%00", "/orgs/acme/repositories/%00/removal", "/orgs/acme/team/%00/removal"):
        assert alice.browser.get(path).status_code == 404
    assert send(alice, "/orgs/%00/restoration").status_code == 404
    for query in ("team?q=%00", "repositories?after=%00", "repositories?check=%00"):
        assert alice.browser.get(f"/orgs/acme/{query}").status_code == 200


def test_organisation_is_founded_without_javascript(alice: Person, session: OrmSession) -> None:
    refused = send(alice, "/orgs/new", name="x&y", description="Kept")
    assert refused.status_code == 422
    assert 'aria-invalid="true"' in refused.text
    assert "Kept" in refused.text
    answer = send(alice, "/orgs/new", name="Acme Labs", description="Ships")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/orgs/acme-labs")
    page = alice.browser.get("/orgs/acme-labs").text
    assert "0 of 5 done" in page
    assert "Connect a repository or a key" in page
    assert "Ships" in page


def test_members_are_managed_without_javascript(
    acme: Org, alice: Person, bob: Person, carol: Person, mallory: Person, session: OrmSession
) -> None:
    team = "/orgs/acme/team"
    assert send(alice, team, email="mallory@example.org", role="member").status_code == 303
    unknown = send(alice, team, email="nobody@example.org", role="member")
    assert (unknown.status_code, "Invite them instead" in unknown.text) == (422, True)
    assert send(alice, f"{team}/{mallory.id}/role", role="admin").status_code == 303
    fragment = send(alice, f"{team}/{mallory.id}/role", fragment=True, role="viewer")
    assert (fragment.status_code, "<html" in fragment.text, 'id="members"' in fragment.text) == (
        200,
        False,
        True,
    )
    found = alice.browser.get(f"{team}?q=MALL", headers=FRAGMENT).text
    assert ("mallory@example.org" in found, "bob@example.org" in found) == (True, False)
    assert "No member matches" in alice.browser.get(f"{team}?q=%25").text
    assert 'value="owner"' not in carol.browser.get(team).text
    assert send(carol, f"{team}/{alice.id}/removal").status_code == 403
    assert send(alice, f"{team}/{mallory.id}/removal").status_code == 303
    assert send(bob, "/orgs/acme/departure").headers["Location"] == "/orgs"
    assert send(alice, "/orgs/acme/departure").status_code == 409
    assert "needs at least one owner" in alice.browser.get("/orgs/acme/departure").text
    assert send(alice, "/orgs/acme/ownership", user=carol.id, typed="acme").status_code == 303
    session.expire_all()
    roles = {id: factories.membership(acme, id).role for id in (alice.id, carol.id)}
    assert (roles, session.get_one(Org, acme.id).owner_id) == (
        {alice.id: "admin", carol.id: "owner"},
        carol.id,
    )
    assert actions(session)[-3:] == ["member.removed", "member.left", "ownership.transferred"]


def test_repositories_are_managed_and_explained(acme: Org, site: OrgRepo, alice: Person, bob: Person) -> None:
    repos = "/orgs/acme/repositories"
    added = send(alice, repos, repository_url="git@github.com:Acme/Docs.git")
    assert added.status_code == 303
    again = send(alice, repos, fragment=True, repository_url="https://github.com/acme/docs")
    assert (again.status_code, "added already" in again.text, "<html" in again.text) == (422, True, False)
    page = bob.browser.get(f"{repos}?check=git@github.com:Acme/Site.git").text
    assert "Matches: Acme pays" in page
    assert "Add a repository" not in page
    assert send(alice, f"{repos}/{site.id}/activity", active="0").status_code == 303
    fragment = bob.browser.get(f"{repos}?check=github.com/acme/site", headers=FRAGMENT).text
    assert ("inactive" in fragment, "<html" in fragment, 'id="repositories"' in fragment) == (
        True,
        False,
        False,
    )
    assert send(alice, f"{repos}/{site.id}/removal").status_code == 303
    assert "not added" in bob.browser.get(f"{repos}?check=github.com/acme/site").text


def test_settings_are_saved_and_deletion_is_typed(acme: Org, alice: Person, session: OrmSession) -> None:
    form = {
        "name": "Acme Works",
        "description": "Ships",
        "time_zone": "Asia/Kathmandu",
    }
    assert send(alice, "/orgs/acme/settings", **{**form, "time_zone": "Mars"}).status_code == 422
    assert send(alice, "/orgs/acme/settings", **form).status_code == 303
    session.expire_all()
    org = session.get_one(Org, acme.id)
    assert (org.name, org.time_zone, org.billing_alerts, org.slug) == (
        "Acme Works", "Asia/Kathmandu", True, "acme",
    )  # fmt: skip
    factories.grant(alice.user, 700, type="organization", org_id=org.id)  # type: ignore[arg-type]
    assert "700 credits are left" in alice.browser.get("/orgs/acme/deletion").text
    assert send(alice, "/orgs/acme/deletion", typed="Acme").status_code == 422
    assert send(alice, "/orgs/acme/deletion", typed="acme").headers["Location"] == "/orgs"
    assert 'aria-label="Restore Acme Works"' in alice.browser.get("/orgs").text
    assert actions(session) == ["organization.edited", "organization.deleted"]


def test_archive_has_everything(acme: Org, site: OrgRepo, alice: Person, bob: Person) -> None:
    assert alice.user
    assert bob.user
    factories.grant(alice.user, 700, type="organization", org_id=acme.id)
    factories.message(bob.user, org_id=acme.id, repo_url=site.repo_url, credits=7)
    account = Account(org_id=acme.id)
    fields = {"name": "Editor", "instructions": "Edit texts."}
    editor = create_assistant(bob.id, account, fields, extension("settings")).assistant.id
    create_assistant(bob.id, Account(user_id=bob.id), {**fields, "name": "Mine alone"}, extension("settings"))
    thread = create_thread(bob.id, account, name="Between us", assistant_id=editor)
    append(thread, role="user", content="A secret")
    db.session.commit()
    answer = alice.browser.get("/orgs/acme/archive.zip")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="stoa-acme.zip"'
    archive = zipfile.ZipFile(io.BytesIO(answer.data))
    assert archive.testzip() is None
    files = {name: archive.read(name).decode() for name in archive.namelist()}
    for name, text in {
        "members.csv": "bob@example.org",
        "repositories.csv": site.repo_url,
        "calls.csv": f"{bob.id},{site.repo_url}",
        "statement.csv": "700",
        "audit.csv": "repository.added",
        "assistants.jsonl": '"instructions": "Edit texts."',
        "threads.csv": f"{thread.id},{bob.id},thread,{editor},,1",
    }.items():
        assert text in files[name], name
    assert {"tools.jsonl", "tool_secrets.csv"} < files.keys()
    whole = "".join(files.values())
    for private in ("Mine alone", "Between us", "A secret"):
        assert private not in whole


@pytest.mark.parametrize(
    ("start", "targets"),
    [
        ("/orgs/acme/team", {"/orgs/acme/team", "/orgs/beta/team", "/profile?tab=usage"}),
        ("/orgs/acme/settings", {"/orgs/acme/settings", "/orgs/beta", "/publishers"}),
        ("/orgs/acme/billing", {"/orgs/acme/billing", "/orgs/beta", "/profile?tab=billing"}),
        ("/orgs/acme/ownership", {"/orgs/acme/ownership", "/orgs/beta", "/profile?tab=usage"}),
        ("/orgs/acme", {"/orgs/acme", "/orgs/beta", "/profile?tab=usage"}),
        ("/profile?tab=billing", {"/orgs/acme/billing", "/orgs/beta", "/profile?tab=billing"}),
        ("/orgs/new", {"/orgs/acme", "/orgs/beta", "/profile?tab=usage"}),
    ],
)
def test_switcher_keeps_the_kind_of_page(
    acme: Org, alice: Person, bob: Person, app: Flask, start: str, targets: set[str]
) -> None:
    """alice owns acme and is a viewer in beta, who opens neither settings nor bills."""
    assert alice.user
    assert bob.user
    factories.join(factories.org(bob.user, "Beta"), alice.id, "viewer")
    page = alice.browser.get(start).text
    menu = page.partition('class="menu scope-menu"')[2].partition("<hr>")[0]
    assert {part.partition('"')[0] for part in menu.split('<a href="')[1:]} == targets
    for target in targets - {start}:
        assert alice.browser.get(target).status_code == 200, target


def test_features_are_set_by_operators(app: Flask, acme: Org, session: OrmSession, alice: Person) -> None:
    runner = app.test_cli_runner()

    def run(*words: str) -> tuple[int, str]:
        result = runner.invoke(args=["orgs", *words])
        return result.exit_code, result.output

    assert not feature_on(acme, "beta-search")
    assert run("feature", "acme", "beta-search", "--config", '{"top": 3}')[0] == 0
    assert (feature_on(acme, "beta-search"), feature_config(acme, "beta-search")) == (True, {"top": 3})
    assert run("features", "acme")[1] == 'beta-search: on {"top": 3}\n'
    assert "beta-search" in alice.browser.get("/orgs/acme/settings").text
    assert run("feature", "acme", "beta-search", "--off")[0] == 0
    session.expire_all()
    assert (feature_on(acme, "beta-search"), feature_config(acme, "beta-search")) == (False, {})
    assert [run(*words)[0] for words in (("feature", "acme", "X"), ("feature", "none", "xy"),
            ("feature", "acme", "xy", "--config", "[]"))] == [1, 1, 1]  # fmt: skip
    assert actions(session) == ["feature.changed", "feature.changed"]


@contextmanager
def counted(engine: Engine) -> Iterator[list[str]]:
    statements: list[str] = []

    def note(_1: Any, _2: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    yield statements
    event.remove(engine, "before_cursor_execute", note)


def test_lists_take_constant_statements_and_have_pages(
    app: Flask, acme: Org, alice: Person, session: OrmSession
) -> None:
    assert alice.user
    with app.app_context():
        engine = db.engine

    def statements(path: str) -> int:
        with counted(engine) as found:
            assert alice.browser.get(path).status_code == 200
        return len(found)

    paths = ("/orgs", "/orgs/acme/team", "/orgs/acme/repositories")
    budgets.create_budget(Account(org_id=acme.id), "member", "month", 1000)
    session.commit()
    statements("/orgs")  # the first request stores when the session was last used
    before = [statements(path) for path in paths]
    with factories.one_commit():
        for n in range(60):
            session.add(OrgMember(org_id=acme.id, user_id=factories.user(f"user{n:02}").id, role="member"))
        for n in range(110):
            session.add(
                OrgRepo(
                    org_id=acme.id, repo_url=f"https://github.com/acme/r{n:03}", repo_name=f"r{n:03}",
                    repo_owner="acme", approved_by=alice.id,
                )
            )  # fmt: skip
        for n in range(20):
            factories.org(alice.user, f"Other {n}")
    assert [statements(path) for path in paths] == before
    for path, size, total in (("/orgs/acme/team", 50, 62), ("/orgs/acme/repositories", 100, 110)):
        first = alice.browser.get(path).text
        rows = first.count('role="rowheader"')
        link = first.partition('class="load-more"')[2].partition('href="')[2].partition('"')[0]
        second = alice.browser.get(link.replace("&amp;", "&")).text
        assert (rows, second.count('role="rowheader"')) == (size, total - size)
