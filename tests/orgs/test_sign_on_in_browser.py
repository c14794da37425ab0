"""Single sign-on settings, the page that requires it, and audit logs in Chromium: axe finds nothing, nothing is too wide."""

import os
from typing import Any

import pytest
from flask import Flask
from playwright.sync_api import Page
from sqlalchemy.orm import Session as OrmSession

from models.core.db import db
from models.orgs import Org, OrgDomain, OrgSso, OrgSsoGroup, OrgTeam, record_org
from models.orgs.directory import create_scim_token
from tests import factories
from tests.chromium import WIDTHS, OpenPage, judge, serving
from tests.factories import Person

pytestmark = pytest.mark.browser

SHOTS = os.environ.get("STOA_SHOTS")


@pytest.fixture
def filled(acme: Org, session: OrmSession, carol: Person) -> Org:
    """Acme with domains, an identity provider, groups, a token and some history."""
    team = factories.save(OrgTeam(org_id=acme.id, name="Platform"))
    factories.join(acme, factories.user("guest", email="guest@elsewhere.org").id)
    now = factories.now()
    session.add_all(
        [
            OrgDomain(
                org_id=acme.id, domain="example.org", token="t" * 32, verified_at=now, verified_by="dns"
            ),
            OrgDomain(org_id=acme.id, domain="acme-engineering.example.com", token="d3adb33f" * 4),
            OrgDomain(
                org_id=acme.id,
                domain="acme.example.net",
                token="c0ffee00" * 4,
                verified_at=now,
                verified_by="dns",
                missing_since=now,
                misses=3,
                paused_at=now,
            ),
            OrgSso(
                org_id=acme.id,
                issuer="https://login.example.org",
                client_id="stoa",
                client_secret="sso1:x",
                group_claim="groups",
                default_role="member",
                joins=True,
            ),
            OrgSsoGroup(org_id=acme.id, value="platform-leads", role="admin", team_id=team.id),
        ]
    )
    create_scim_token(acme.id, "alice@example.org")
    record_org(
        acme.id, "member.role_changed", "bob@example.org", before={"role": "member"}, after={"role": "admin"}
    )
    record_org(
        acme.id,
        "budget.changed",
        "team Platform",
        before={"limit_credits": 500},
        after={"limit_credits": 900},
    )
    session.commit()
    return acme


def look(page: Page, name: str) -> None:
    judge(page, *WIDTHS)
    for width in WIDTHS if SHOTS else ():
        page.set_viewport_size({"width": width, "height": 900})
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            page.screenshot(path=f"{SHOTS}/{name}-{width}-{scheme}.png", full_page=True)


def test_the_pages(app: Flask, filled: Org, alice: Person, bob: Person, open_page: OpenPage) -> None:
    root = factories.person(app, "root")

    def cookie(person: Person) -> Any:
        assert person.user is not None
        return factories.browser_cookie(person.user)

    with serving(app) as base, open_page(base, expected=(403,)) as page:
        page.goto("/login")
        look(page, "login")
        page.context.add_cookies([cookie(alice)])
        for path, name in (("settings/sso", "sso"), ("audit", "audit")):
            page.goto(f"/orgs/acme/{path}")
            look(page, name)
        page.get_by_label("Subject").fill("bob@example.org")
        page.get_by_role("button", name="Apply").click()
        page.get_by_role("link", name="Clear").wait_for()
        assert page.get_by_role("row").count() == 2
        page.context.add_cookies([cookie(root)])
        page.goto("/admin/audit")
        look(page, "admin-audit")
        filled.sso_enforced_at = factories.now()
        db.session.commit()
        page.context.add_cookies([cookie(alice)])
        page.goto("/orgs/acme")
        look(page, "required")
