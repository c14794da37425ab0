"""Invitations, joining and leaving in Chromium: without JavaScript, and without axe violations."""

from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from playwright.sync_api import expect

from models.core.db import db
from models.orgs import Org, OrgDomain, OrgDomainJoining
from models.orgs.invites import invite, note
from tests import factories
from tests.chromium import WIDTHS, OpenPage, judge, serving
from tests.factories import Person

pytestmark = pytest.mark.browser


def cookie_of(who: Person) -> Any:
    assert who.user
    return factories.browser_cookie(who.user)


@pytest.fixture
def base(app: Flask, acme: Org) -> Iterator[str]:
    with serving(app) as address:
        yield address


@pytest.fixture
def tokens(acme: Org, alice: Person) -> dict[str, str]:
    """Tokens of invitations in every state, by address."""
    assert alice.user
    found = {}
    with factories.one_commit():
        for name, role in (("kit", "member"), ("rosa", "admin"), ("jo", "viewer"), ("mia", "billing")):
            sent = invite(acme, f"{name}@example.org", role, alice.user, factories.now())
            note(sent.invite, "opened", factories.now())
            found[name] = sent.token
            if name == "rosa":
                sent.invite.expires_at = factories.now()
                note(sent.invite, "expired", factories.now())
            elif name == "jo":
                sent.invite.declined_at = factories.now()
                note(sent.invite, "declined", factories.now())
    return found


def test_axe_finds_nothing_on_invitations(
    open_page: OpenPage, base: str, tokens: dict[str, str], alice: Person, mallory: Person
) -> None:
    with open_page(base, expected=(404, 410, 422)) as page:
        for name in ("kit", "rosa", "none"):
            page.goto(f"/invites/{tokens.get(name, name)}")
            judge(page, *WIDTHS)
        page.context.add_cookies([cookie_of(mallory)])
        page.goto(f"/invites/{tokens['kit']}")
        judge(page, *WIDTHS)
        page.context.add_cookies([cookie_of(alice)])
        for path in ("/orgs/acme/invites?show=all", "/orgs/acme/invites/new"):
            page.goto(path)
            judge(page, *WIDTHS)
        page.get_by_label("Addresses").fill("new@example.org, alice@example.org\nnobody")
        page.get_by_role("button", name="Send invitations").click()
        expect(page.get_by_role("heading", name="1 of 3 invited")).to_be_visible()
        judge(page, *WIDTHS)


def test_axe_finds_nothing_on_joining_and_leaving(
    open_page: OpenPage, base: str, acme: Org, alice: Person, bob: Person, mallory: Person
) -> None:
    assert bob.user
    with factories.one_commit():
        factories.save(
            OrgDomain(org_id=acme.id, domain="example.org", token="t", verified_at=factories.now())
        )
        factories.save(OrgDomainJoining(org_id=acme.id, domain="example.org", mode="ask", role="member"))
        factories.token(bob.user, name="nightly", org_id=acme.id)
    with open_page(base) as page:
        page.context.add_cookies([cookie_of(mallory)])
        page.goto("/orgs")
        page.get_by_role("button", name="Ask to join").click()
        expect(page.get_by_text("You asked to join.")).to_be_visible()
        judge(page, *WIDTHS)
        page.context.add_cookies([cookie_of(alice)])
        page.goto("/orgs/acme/team")
        page.get_by_role("link", name="All", exact=True).click()
        expect(page.get_by_role("link", name="All", exact=True)).to_have_attribute("aria-current", "true")
        expect(page.locator("#members-h")).to_be_visible()
        judge(page, *WIDTHS)
        page.get_by_role("link", name="Remove bob").click()
        page.get_by_label("What becomes of nightly").select_option("Move to a new service account")
        judge(page, *WIDTHS)
        page.get_by_role("button", name="Remove bob").click()
        expect(page.get_by_text("Keys of bob")).to_be_visible()
        judge(page, *WIDTHS)


def test_an_invitation_is_accepted_without_javascript(
    open_page: OpenPage, base: str, app: Flask, tokens: dict[str, str]
) -> None:
    kit = factories.person(app, "kit")
    with open_page(base, script=False) as page:
        page.context.add_cookies([cookie_of(kit)])
        page.goto(f"/invites/{tokens['kit']}")
        page.get_by_role("button", name="Accept the invitation").click()
        expect(page.get_by_text("Welcome to Acme.")).to_be_visible()
    db.session.rollback()
