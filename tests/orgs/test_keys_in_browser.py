"""Pages of teams, service accounts and keys in a browser: axe at both widths; a key is made with htmx and shown once."""

from collections.abc import Iterator

import pytest
from flask import Flask
from sqlalchemy.orm import Session as OrmSession

from models.accounts.credentials import hash_token
from models.core.db import db
from models.orgs import Org, OrgTeamMember, org_repos
from models.orgs.service_accounts import create_service_account, switch_service_account
from models.orgs.team_editing import create_team, edit_team
from tests import factories
from tests.chromium import WIDTHS, OpenPage, judge
from tests.factories import Person
from tests.orgs.test_orgs_in_browser import enter, shoot
from tests.server import serving


@pytest.fixture
def base(app: Flask, session: OrmSession) -> Iterator[str]:
    with serving(app) as address:
        yield address


def test_axe_finds_nothing(open_page: OpenPage, base: str, acme: Org, alice: Person, bob: Person) -> None:
    assert alice.user
    assert bob.user
    repo = org_repos.add(acme, alice.user, "https://github.com/acme/site")
    org_repos.add(
        acme, alice.user, "https://gitlab.com/acme/a-repository-with-a-rather-long-name-for-a-narrow-page"
    )
    team = create_team(acme, "Web")
    edit_team(team, name="Web", models=["openai/*", "anthropic/claude-*"], repository_ids=[repo.id])
    db.session.add(OrgTeamMember(team_id=team.id, org_id=acme.id, user_id=bob.id))
    service = create_service_account(acme, alice.id, "Nightly builds", team.id)
    off = create_service_account(acme, alice.id, "Old deploys")
    switch_service_account(off, False, factories.now())
    db.session.commit()
    account = db.session.get_one(type(alice.user), service.user_id)
    key = hash_token(factories.token(account, org_id=acme.id, name="ci"))
    factories.token(bob.user, org_id=acme.id, name="laptop", team_id=team.id, expires=factories.now())
    factories.message(account, credits=1204, org_id=acme.id, key_id=key)
    paths = {
        "teams": "/orgs/acme/teams",
        "team-page": f"/orgs/acme/teams/{team.id}",
        "team-removal": f"/orgs/acme/teams/{team.id}/removal",
        "service-accounts": "/orgs/acme/service-accounts",
        "service-account": f"/orgs/acme/service-accounts/{service.user_id}",
        "service-account-off": f"/orgs/acme/service-accounts/{off.user_id}",
        "keys": "/orgs/acme/keys",
        "key": f"/orgs/acme/keys/{key}",
        "profile-keys": "/profile?tab=api-keys",
    }
    with open_page(base, width=390) as page:
        enter(page, alice)
        for name, path in paths.items():
            page.goto(path)
            shoot(page, name)
            if name in ("team-page", "service-account", "keys"):
                # the others have nothing that these lack
                judge(page, *WIDTHS)


def test_key_for_a_service_account(open_page: OpenPage, base: str, acme: Org, alice: Person) -> None:
    service = create_service_account(acme, alice.id, "Builds")
    db.session.commit()
    with open_page(base, expected=(422,)) as page:
        enter(page, alice)
        page.goto(f"/orgs/acme/service-accounts/{service.user_id}")
        page.get_by_role("link", name="New key").click()
        page.get_by_label("Name", exact=True).fill("ci")
        page.get_by_label("Expires after").fill("400")
        page.get_by_role("button", name="Create key").click()
        page.get_by_text("Enter 1 to 365 days.").wait_for()
        assert page.get_by_label("Owner").input_value() == service.user_id
        page.get_by_label("Expires after").fill("30")
        page.get_by_role("button", name="Create key").click()
        page.get_by_text("Copy your new key now").wait_for()
        shoot(page, "new-key")
        page.get_by_role("navigation", name="Path").get_by_role("link", name="API keys").click()
        page.get_by_role("link", name="ci", exact=True).click()
        page.get_by_role("link", name="Revoke").click()
        page.get_by_role("dialog").get_by_role("button", name="Revoke key").click()
        page.get_by_text("No keys yet").wait_for()
