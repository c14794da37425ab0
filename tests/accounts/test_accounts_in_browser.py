"""Sign-in, keys and sessions in Chromium: accessibility, dialogs, inline errors, and all of it without JavaScript."""

import re
from collections.abc import Iterator

import pytest
from flask import Flask
from playwright.sync_api import Page, expect
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from models.accounts import Session, User, devices, magic_links
from models.accounts.signing_in import Identity
from models.core import mail
from models.core.mail import Email
from models.core.settings import Settings
from tests import factories
from tests.chromium import WIDTHS, OpenPage, judge, serving
from tests.factories import Person

pytestmark = pytest.mark.browser


@pytest.fixture
def base(app: Flask) -> Iterator[str]:
    with serving(app) as address:
        yield address


@pytest.fixture
def cookie(session: OrmSession, alice: Person) -> dict[str, str]:
    """Alice's browser session; she also has a command line session and a second key."""
    user = session.get_one(User, alice.id)
    factories.fingerprint("codecane-cli-8f3k2j1m")
    factories.token(user, type="cli", fingerprint_id="codecane-cli-8f3k2j1m")
    factories.token(user, name="laptop")
    return factories.browser_cookie(user)


@pytest.fixture
def code(settings: Settings) -> str:
    return devices.issue_code(settings.secret_key, "marsh-laptop", factories.now()).text


def test_axe_finds_nothing_on_sign_in_pages(
    open_page: OpenPage, base: str, session: OrmSession, code: str
) -> None:
    path = magic_links.issue("a@example.org", next=f"/onboard?auth_code={code}", now=factories.now())
    session.commit()
    with open_page(base, width=390, expected=(410, 422)) as page:
        for address in ("/login", f"/login?auth_code={code}", path, "/login/link/none", "/login/sent"):
            page.goto(address)
            judge(page, *WIDTHS)
        page.goto("/login")
        page.get_by_label("E-mail").fill("nobody")
        page.get_by_role("button", name="Send sign-in link").click()
        expect(page.locator("[aria-invalid]")).to_be_visible()
        judge(page, *WIDTHS)


def test_axe_finds_nothing_where_an_identity_is_joined(
    open_page: OpenPage,
    app: Flask,
    base: str,
    session: OrmSession,
    alice: Person,
    cookie: dict[str, str],
) -> None:
    assert alice.user is not None
    identity = Identity(
        "github", "1234567", "alice@example.org", verified=False, name="Mal Lory", login="mal-lory"
    )
    mine = magic_links.issue(alice.user.email, identity=identity, browser="nonce", now=factories.now())
    other = magic_links.issue("bob@example.org", identity=identity, browser="nonce", now=factories.now())
    session.commit()
    client = app.test_client()
    with client.session_transaction() as flow:
        flow["browser"] = "nonce"
    kept = client.get_cookie("stoa-flow")
    assert kept is not None
    begun = {"name": "stoa-flow", "value": kept.value, "domain": "127.0.0.1", "path": "/"}
    with open_page(base, width=390, expected=(409,)) as page:
        page.goto(mine)
        expect(page.get_by_text("is not connected yet")).to_be_visible()
        judge(page, *WIDTHS)
        page.context.add_cookies([begun])  # type: ignore[list-item]
        page.goto(mine)
        expect(page.get_by_role("button", name="Connect and sign in")).to_be_visible()
        judge(page, *WIDTHS)
        page.context.add_cookies([cookie])  # type: ignore[list-item]
        page.goto(other)
        expect(page.get_by_role("heading", name="Another account is signed in")).to_be_visible()
        judge(page, *WIDTHS)
        page.goto(mine)
        page.get_by_role("button", name="Connect and sign in").click()
        expect(page.get_by_role("heading", name="Usage")).to_be_visible()


def test_axe_finds_nothing_inside(open_page: OpenPage, base: str, cookie: dict[str, str], code: str) -> None:
    with open_page(base, width=390, expected=(422,)) as page:
        page.context.add_cookies([cookie])  # type: ignore[list-item]
        for address in ("/onboard", f"/onboard?auth_code={code}", "/onboard?auth_code=x"):
            page.goto(address)
            judge(page, *WIDTHS)
        page.goto("/profile?tab=security")
        judge(page, *WIDTHS)
        page.get_by_role("link", name="Sign out everywhere else").click()
        expect(page.get_by_role("dialog").get_by_label("Keep API keys")).to_be_visible()
        judge(page, *WIDTHS)
        page.goto("/profile?tab=security")
        page.get_by_role("link", name="Sign out all").click()
        expect(page.get_by_role("dialog")).to_be_visible()
        judge(page, *WIDTHS)
        page.get_by_role("dialog").get_by_role("button", name="Sign out all").click()
        expect(page.get_by_role("dialog").locator("[aria-invalid]")).to_be_visible()
        judge(page, *WIDTHS)
        page.goto("/profile?tab=api-keys")
        judge(page, *WIDTHS)
        page.locator("#days").evaluate("field => field.append(new Option('Long', '999', true, true))")
        page.get_by_role("button", name="Create key").click()
        expect(page.locator("[aria-invalid]")).to_be_visible()
        judge(page, *WIDTHS)
        page.get_by_label("Expires after").select_option("30 days")
        page.get_by_role("button", name="Create key").click()
        expect(page.get_by_text("Copy your new key now")).to_be_visible()
        judge(page, *WIDTHS)
        page.goto("/profile?tab=api-keys")
        page.get_by_role("link", name="Edit key laptop").click()
        page.get_by_role("dialog").get_by_label("In use").uncheck()
        judge(page, *WIDTHS)
        page.get_by_role("dialog").get_by_role("button", name="Save").click()
        expect(page.get_by_text("Off", exact=True)).to_be_visible()


def test_the_profile_applies_the_theme_and_asks_for_the_new_address(
    open_page: OpenPage, base: str, session: OrmSession, cookie: dict[str, str]
) -> None:
    with open_page(base, width=390, expected=(422,)) as page:
        page.context.add_cookies([cookie])  # type: ignore[list-item]
        page.goto("/profile?tab=account")
        judge(page, *WIDTHS)
        page.get_by_label("Theme").select_option("Dark")
        page.get_by_role("button", name="Save").click()
        expect(page.locator("html[data-theme=dark]")).to_have_count(1)
        assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "dark"
        page.get_by_role("link", name="Change e-mail address").click()
        page.get_by_role("dialog").get_by_label("New address").fill("nobody")
        page.get_by_role("dialog").get_by_role("button", name="Send link").click()
        expect(page.get_by_role("dialog").locator("[aria-invalid]")).to_be_visible()
        page.get_by_role("dialog").get_by_label("New address").fill("new@example.org")
        page.get_by_role("dialog").get_by_role("button", name="Send link").click()
        expect(page.get_by_text("Confirm new@example.org")).to_be_visible()
        judge(page, *WIDTHS)


@pytest.mark.parametrize("script", [True, False])
def test_the_way_in_and_out(
    open_page: OpenPage,
    base: str,
    session: OrmSession,
    monkeypatch: pytest.MonkeyPatch,
    script: bool,
) -> None:
    outbox: list[Email] = []
    monkeypatch.setattr(mail, "send", lambda _settings, message: outbox.append(message))
    with open_page(base, script=script, expected=(422,)) as page:
        page.goto("/profile?tab=api-keys")
        expect(page).to_have_url(re.compile("/login"))
        page.get_by_label("E-mail").fill("nobody")
        page.get_by_role("button", name="Send sign-in link").click()
        expect(page.get_by_text("Enter an address like")).to_be_visible()
        page.get_by_label("E-mail").fill("ada@example.org")
        page.get_by_role("button", name="Send sign-in link").click()
        expect(page.get_by_text("ada@example.org")).to_be_visible()
        found = re.search(r"/login/link/\S+", outbox[0].text)
        assert found
        page.goto(found[0])
        page.get_by_role("button", name="Sign in").click()
        expect(page).to_have_url(re.compile(r"/profile\?tab=api-keys"))
        _make_and_revoke(page, script)
        page.get_by_text("Your account").first.click(force=True)
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_role("link", name="Sign in").first).to_be_visible()
    assert session.scalars(select(Session)).all() == []


def _make_and_revoke(page: Page, script: bool) -> None:
    page.get_by_role("textbox", name="Name optional").fill("laptop")
    page.get_by_role("button", name="Create key").click()
    expect(page.get_by_text("Copy your new key now")).to_be_visible()
    expect(page.locator(".command code")).to_have_text(
        re.compile(r"^export STOA_KEY=sk_live_[0-9A-Za-z]{73}$")
    )
    page.get_by_role("navigation", name="Path").get_by_role("link", name="API keys").click()
    page.get_by_role("link", name="Revoke key laptop").click()
    if script:
        expect(page.get_by_role("dialog")).to_be_visible()
    page.get_by_role("button", name="Revoke key").click()
    expect(page.get_by_text("No keys yet")).to_be_visible()
    expect(page.get_by_text("Key revoked.")).to_be_visible()


@pytest.mark.parametrize("script", [True, False])
def test_a_command_line_is_let_in_by_a_button(
    open_page: OpenPage, base: str, session: OrmSession, cookie: dict[str, str], code: str, script: bool
) -> None:
    with open_page(base, script=script) as page:
        page.context.add_cookies([cookie])  # type: ignore[list-item]
        page.goto(f"/login?auth_code={code}")
        expect(page.get_by_text("marsh-laptop")).to_be_visible()
        held = select(Session).where(Session.fingerprint_id == "marsh-laptop")
        assert session.scalars(held).all() == []
        if script:
            judge(page, 320, 390, 1440)
        page.get_by_role("button", name="Approve").dblclick()
        expect(page.get_by_text("The command line is signed in.")).to_be_visible()
        session.expire_all()
        assert len(session.scalars(held).all()) == 1


@pytest.mark.parametrize("script", [True, False])
def test_all_command_lines_are_signed_out_by_the_typed_word(
    open_page: OpenPage, base: str, cookie: dict[str, str], script: bool
) -> None:
    with open_page(base, script=script, expected=(422,)) as page:
        page.context.add_cookies([cookie])  # type: ignore[list-item]
        page.goto("/profile?tab=security")
        page.get_by_role("link", name="Sign out all").click()
        page.get_by_role("button", name="Sign out all").click()
        expect(page.get_by_text("Type the word confirm.")).to_be_visible()
        page.get_by_label("Type confirm to continue").fill("confirm")
        page.get_by_role("button", name="Sign out all").click()
        expect(page.get_by_text("No command line is signed in")).to_be_visible()
