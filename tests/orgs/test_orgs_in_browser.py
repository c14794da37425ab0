"""Pages of organisations in a browser: found one, manage its members; axe at both widths."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask
from playwright.sync_api import Page, expect
from sqlalchemy.orm import Session as OrmSession

from models.accounts.credentials import hash_token
from models.billing import budget_requests
from models.core.db import db
from models.gateway.provider_keys import ProviderKeyForm, add_provider_key
from models.ledger import Account, budgets
from models.ledger.budget_tables import BudgetSpend
from models.orgs import Org, org_repos
from tests import factories
from tests.chromium import WIDTHS, OpenPage, judge
from tests.factories import Person
from tests.server import serving


@pytest.fixture
def base(app: Flask, session: OrmSession) -> Iterator[str]:
    with serving(app) as address:
        yield address


def enter(page: Page, person: Person) -> None:
    assert person.user
    page.context.add_cookies(
        [
            {
                "name": "next-auth.session-token",
                "value": factories.token(person.user, type="web"),
                "domain": "127.0.0.1",
                "path": "/",
            }
        ]
    )


def shoot(page: Page, name: str) -> None:
    """Save pictures of the page at both widths and in both schemes to STOA_SHOTS, for a person to look at."""
    folder = os.environ.get("STOA_SHOTS")
    if not folder:
        return
    own = page.viewport_size
    assert own
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            page.screenshot(path=Path(folder, f"{name}-{width}-{scheme}.png"), full_page=True)
    page.emulate_media(color_scheme="light")
    page.set_viewport_size(own)


def limit_members(acme: Org, spent: dict[str, int], asks: Person) -> None:
    """Give each member a budget of 1,300 a month, with this much spent of it."""
    assert asks.user
    account, month = (
        Account(org_id=acme.id),
        factories.now().replace(day=1, hour=0, minute=0, second=0, microsecond=0),
    )
    for level, period, limit in (
        ("member", "month", 1300),
        ("account", "month", 4000),
        ("team", "total", 900),
    ):
        budgets.create_budget(account, level, period, limit)
    (budget,) = [each for each in budgets.budgets_of(account) if each.level == "member"]
    for id, credits in spent.items():
        factories.save(BudgetSpend(budget_id=budget.id, subject=id, window_start=month, spent=credits))
    budget_requests.request_more(account, budget.id, asks.user, 500, reason="A week of reviews")
    budget_requests.raise_budget(account, budget.id, 150, subject=list(spent)[-1], by=asks.user)
    db.session.commit()


def test_axe_finds_nothing(
    open_page: OpenPage, base: str, acme: Org, alice: Person, carol: Person, dave: Person
) -> None:
    assert alice.user
    factories.grant(alice.user, 12_000, type="organization", org_id=acme.id)
    key = hash_token(factories.token(alice.user, org_id=acme.id, name="Nightly reviews"))
    factories.message(alice.user, credits=1204, org_id=acme.id, agent_id="acme/reviewer@1.0.0", key_id=key)
    factories.org(alice.user, "Beta", members=())
    factories.org(alice.user, "Old Things", deleted_at=factories.now())
    repo = org_repos.add(acme, alice.user, "https://github.com/acme/site")
    org_repos.switch(org_repos.add(acme, alice.user, "https://gitlab.com/acme/old"), False)
    factories.save(repo)
    form = ProviderKeyForm("openrouter", "Research", "sk-or-v1-secret-abcd", ["anthropic/*"], [alice.id])
    factories.save(add_provider_key(Account(org_id=acme.id), alice.id, form))
    factories.publisher(acme, "acme-tools")
    limit_members(acme, {alice.id: 1204, carol.id: 1300, dave.id: 290}, asks=carol)
    paths = {
        "orgs": "/orgs",
        "new": "/orgs/new",
        "overview": "/orgs/acme",
        "team": "/orgs/acme/team",
        "member": f"/orgs/acme/team/{carol.id}",
        "own member": f"/orgs/acme/team/{alice.id}",
        "removal": f"/orgs/acme/team/{carol.id}/removal",
        "departure": "/orgs/acme/departure",
        "personal-keys": "/orgs/acme/personal-keys",
        "repositories": "/orgs/acme/repositories?check=git@github.com:Acme/Site.git",
        "settings": "/orgs/acme/settings",
        "provider-keys": "/orgs/acme/provider-keys",
        "own provider keys": "/provider-keys",
        "transfer": "/orgs/acme/ownership",
        "deletion": "/orgs/acme/deletion",
        "stop": "/orgs/acme/stop",
        "stop confirmation": "/orgs/acme/stop/confirmation",
    }
    with open_page(base, width=390) as page:
        enter(page, alice)
        page.goto("/orgs/acme/team")
        page.get_by_role("button", name="Menu").click()
        page.locator(".scope-menu summary").click()
        expect(page.get_by_role("link", name="Beta")).to_have_attribute("href", "/orgs/beta/team")
        if folder := os.environ.get("STOA_SHOTS"):
            page.screenshot(path=Path(folder, "switcher.png"))
        judge(page)
        for name, path in paths.items():
            page.goto(path)
            shoot(page, name)
            judge(page, *WIDTHS)
        run = factories.run(alice.user, org_id=acme.id)
        factories.hold(alice.user, 120, account_id=acme.id, run_id=run.id, agent_id=run.agent_id)
        page.goto("/orgs/acme/settings")
        page.get_by_role("link", name="Stop all agents").click()
        page.get_by_role("dialog").get_by_role("button", name="Stop all agents").click()
        expect(page.get_by_role("heading", name="What was stopped")).to_be_visible()
        shoot(page, "stopped")
        judge(page, *WIDTHS)
        page.goto("/orgs/acme/stop")
        shoot(page, "stop in force")
        judge(page, *WIDTHS)
