"""Passkeys in Chromium with a virtual authenticator: added, offered in the field of the address, chosen, cancelled."""

from collections.abc import Iterator

import pytest
from flask import Flask
from playwright.sync_api import CDPSession, Page, expect
from sqlalchemy.orm import Session as OrmSession

from models.accounts import User
from tests import factories
from tests.chromium import WIDTHS, OpenPage, judge, serving
from tests.factories import Person

pytestmark = pytest.mark.browser


@pytest.fixture
def base(app: Flask, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The server by its name: browsers offer no passkeys to an address."""
    with serving(app) as address:
        named = address.replace("127.0.0.1", "localhost")
        own = app.extensions["settings"].model_copy(update={"stoa_base_url": named})
        monkeypatch.setitem(app.extensions, "settings", own)
        yield named


def authenticator(page: Page) -> tuple[CDPSession, str]:
    """A phone that always finds its owner, and answers by itself."""
    tools = page.context.new_cdp_session(page)
    tools.send("WebAuthn.enable")
    options = {
        "protocol": "ctap2",
        "transport": "internal",
        "hasResidentKey": True,
        "hasUserVerification": True,
        "isUserVerified": True,
        "automaticPresenceSimulation": True,
    }
    found = tools.send("WebAuthn.addVirtualAuthenticator", {"options": options})
    return tools, found["authenticatorId"]


def test_a_passkey_from_the_profile_to_the_sign_in(
    open_page: OpenPage, base: str, session: OrmSession, alice: Person
) -> None:
    cookie = factories.browser_cookie(session.get_one(User, alice.id)) | {"domain": "localhost"}
    with open_page(base, width=390, expected=(422,)) as page:
        page.context.add_cookies([cookie])  # type: ignore[list-item]
        page.goto("/profile?tab=security")
        judge(page, *WIDTHS)
        tools, device = authenticator(page)
        page.get_by_role("link", name="Add a passkey").click()
        page.get_by_label("Name").fill("Marsh phone")
        judge(page, *WIDTHS)
        tools.send("WebAuthn.setUserVerified", {"authenticatorId": device, "isUserVerified": False})
        page.get_by_role("button", name="Create passkey").click()
        expect(page.get_by_text("Cancelled, or no passkey was chosen")).to_be_visible()
        judge(page, *WIDTHS)
        tools.send("WebAuthn.setUserVerified", {"authenticatorId": device, "isUserVerified": True})
        page.get_by_role("button", name="Create passkey").click()
        expect(page.get_by_text("Passkey “Marsh phone” added")).to_be_visible()
        judge(page, *WIDTHS)
        page.get_by_role("link", name="Add a passkey").click()
        page.get_by_role("button", name="Create passkey").click()
        expect(page.get_by_text("has a passkey for your account already")).to_be_visible()

        page.context.clear_cookies()
        page.goto("/login?next=/profile?tab=security")  # the browser fills in the passkey by itself
        expect(page.get_by_role("heading", name="Security")).to_be_visible()
        row = page.get_by_role("row", name="Marsh phone")
        expect(row.get_by_text("127.0.0.1")).to_be_visible()

        page.add_init_script("PublicKeyCredential.isConditionalMediationAvailable = async () => false")
        page.context.clear_cookies()
        page.goto("/login")
        judge(page, *WIDTHS)
        page.get_by_role("button", name="Sign in with a passkey").click()
        expect(page.get_by_role("heading", name="Usage")).to_be_visible()

        page.goto("/profile?tab=security")
        row.get_by_role("link", name="Rename Marsh phone").click()
        page.get_by_role("dialog").get_by_label("Name").fill("")
        page.get_by_role("dialog").get_by_role("button", name="Save").click()
        expect(page.get_by_role("dialog").locator("[aria-invalid]")).to_be_visible()
        page.get_by_role("dialog").get_by_label("Name").fill("Old phone")
        page.get_by_role("dialog").get_by_role("button", name="Save").click()
        page.get_by_role("row", name="Old phone").get_by_role("link", name="Remove Old phone").click()
        judge(page, *WIDTHS)
        page.get_by_role("dialog").get_by_role("button", name="Remove").click()
        expect(page.get_by_text("Passkey “Old phone” removed")).to_be_visible()

        page.context.clear_cookies()
        page.goto("/login")
        page.get_by_role("button", name="Sign in with a passkey").click()
        expect(page.get_by_text("This passkey is not known here")).to_be_visible()
        judge(page, *WIDTHS)
