"""Pages below “Ship”: empty, deployed, failed, rolled back, settings and connections; by each of the cast."""

from typing import Any

from flask import Flask
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from models.deployments import DeployedSite, Deployment, DeploymentSetting, ProviderCredential
from models.ledger import Account
from models.projects.project_editing import create_project
from tests import factories
from tests.deployments.deployment_calls import SITE, SiteCalls, fetch, host_of
from tests.deployments.deployment_rows import deployment_rows
from tests.factories import Person
from tests.projects.project_rows import caller_of, project_rows
from tests.projects.test_projects_pages import HTMX, send

PAGES = ("", "/settings", "/connections", "/offline")


def test_a_site_is_deployed_by_hand_and_rolled_back(
    pier: SiteCalls, session: OrmSession, alice: Person
) -> None:
    home = f"/projects/{pier.project}/ship"
    assert "The project has no snapshot yet" in alice.browser.get(home).text
    first = pier.push(SITE)
    page = alice.browser.get(home).text
    assert "Nothing is live." in page
    sent = send(alice, f"{home}/deployments", workspace=pier.workspace, snapshot=first)
    assert (sent.status_code, sent.headers["Location"]) == (303, f"{home}?workspace={pier.workspace}")
    page = alice.browser.get(home).text
    assert "The same snapshot" in page
    assert "Healthy" in page
    second = pier.push(SITE | {"index.html": "two"}, [first])
    pier.push(SITE | {"index.html": "three"}, [second])
    assert "2 snapshots behind" in alice.browser.get(home).text
    send(alice, f"{home}/deployments", workspace=pier.workspace, snapshot=second)
    session.rollback()
    old, new = session.scalars(select(Deployment).order_by(Deployment.started_at))
    assert fetch(pier.client, host_of(new.url or "")).text == "two"
    assert "Release again" in alice.browser.get(home).text
    shown = alice.browser.get(f"{home}/deployments/{old.id}").text
    for text in ("Log", "Takes the whole snapshot", "Replaced"):
        assert text in shown
    part = alice.browser.get(f"{home}/deployments/{old.id}", headers=HTMX).text
    assert part.startswith("<div")
    assert "hx-trigger" not in part
    assert send(alice, f"{home}/deployments/{old.id}/release").status_code == 303
    assert fetch(pier.client, host_of(new.url or "")).text == SITE["index.html"]
    assert "Rolled back" in alice.browser.get(home).text
    assert "shows nothing then" in alice.browser.get(f"{home}/offline", headers=HTMX).text
    assert send(alice, f"{home}/offline", workspace=pier.workspace).status_code == 303
    assert fetch(pier.client, host_of(new.url or "")).status_code == 404
    assert send(alice, f"{home}/deployments/{new.id}/release").status_code == 303
    assert fetch(pier.client, host_of(new.url or "")).text == "two"


def test_a_failure_says_why_and_nothing_else_changes(
    pier: SiteCalls, session: OrmSession, alice: Person
) -> None:
    home = f"/projects/{pier.project}/ship"
    pier.push({"readme.md": "x"})
    sent = send(alice, f"{home}/deployments", workspace=pier.workspace)
    page = alice.browser.get(sent.headers["Location"]).text
    assert "No site was found" in page
    assert "Release again" not in page
    session.rollback()
    (row,) = session.scalars(select(Deployment))
    assert send(alice, f"{home}/deployments/{row.id}/release").status_code == 303
    assert "cannot be released again" in alice.browser.get(home).text


def test_settings_are_saved_or_refused_with_what_was_entered(
    pier: SiteCalls, session: OrmSession, alice: Person
) -> None:
    home = f"/projects/{pier.project}/ship/settings"
    entered = {"workspace": pier.workspace, "adapter": "static", "folder": "site", "auto_deploy": "1"}
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"folder": "../x"}, "Name a folder of the project"),
        ({"site_name": "no"}, "Use 4 to 40 small letters"),
        ({"site_name": "status"}, "kept for the server"),
        ({"adapter": "webhook"}, "A webhook needs its address"),
        ({"adapter": "moon"}, "It must be one of"),
        ({"build_hosts": "registry.npmjs.org http://x"}, "Name at most 20 hosts"),
        ({"health_path": "healthz"}, "begins with one /"),
    ]
    for more, message in wrong:
        refused = send(alice, home, headers=HTMX, **{**entered, **more})
        assert refused.status_code == 422
        assert message in refused.text
    assert send(alice, home, **entered, site_name="Pier-Site", webhook_secret="s" * 16).status_code == 303
    session.rollback()
    setting = session.get_one(DeploymentSetting, pier.workspace)
    assert (setting.folder, setting.auto_deploy, setting.build_hosts) == ("site", True, [])
    assert session.get_one(DeployedSite, pier.workspace).name == "pier-site"
    page = alice.browser.get(home).text
    assert 'value="pier-site"' in page
    assert "s" * 16 not in page
    other = SiteCalls(pier.api)
    taken = send(
        alice, f"/projects/{other.project}/ship/settings", workspace=other.workspace, site_name="pier-site"
    )
    assert (taken.status_code, "Another site has this name" in taken.text) == (422, True)


def test_pages_show_no_secret_and_a_member_who_may_not_manage_no_forms(
    app: Flask, session: OrmSession, alice: Person, bob: Person, mallory: Person
) -> None:
    assert alice.user
    assert bob.user
    org = factories.org(alice.user, members=(bob.user,))
    account = Account(org_id=org.id)
    ids = project_rows(alice.id, account)
    ids |= deployment_rows(alice.id, account, ids)
    session.commit()
    home = f"/orgs/{org.slug}/projects/{ids['project_id']}/ship"
    for page in (*PAGES, f"/deployments/{ids['deployment_id']}", "/credentials/cloudflare/removal"):
        answer = alice.browser.get(f"{home}{page}")
        assert answer.status_code == 200, page
        assert "token-of-nobody" not in answer.text
        assert mallory.browser.get(f"{home}{page}").status_code == 404
    assert "****1234" in alice.browser.get(f"{home}/connections").text
    assert "Verify and store" not in bob.browser.get(f"{home}/connections").text
    for path in (
        "/credentials/cloudflare/removal",
        f"/resources/{ids['resource_id']}/removal",
        "/connections",
    ):
        assert send(bob, f"{home}{path}").status_code == 403
        assert send(mallory, f"{home}{path}").status_code == 404
    for path in ("/deployments", "/settings", "/offline", f"/deployments/{ids['deployment_id']}/release"):
        assert send(mallory, f"{home}{path}").status_code == 404
    assert send(alice, f"{home}/credentials/cloudflare/removal").status_code == 303
    assert send(alice, f"{home}/resources/{ids['resource_id']}/removal").status_code == 303
    assert "It was not destroyed at the provider" in alice.browser.get(f"{home}/connections").text
    session.rollback()
    assert session.scalars(select(ProviderCredential)).all() == []


def test_a_project_without_workspaces_says_the_first_step(session: OrmSession, alice: Person) -> None:
    caller = caller_of(alice.id, Account(user_id=alice.id))
    project = create_project(caller, caller.account, "Quay")
    session.commit()
    assert "Nothing to deploy yet" in alice.browser.get(f"/projects/{project.id}/ship").text
    assert "No workspace yet" in alice.browser.get(f"/projects/{project.id}/ship/settings").text
    assert send(alice, f"/projects/{project.id}/ship/settings").status_code == 303
