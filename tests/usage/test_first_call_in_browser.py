"""From sign-in to the first call: three clicks, live with the script, by a link without it."""

import json
import re
import urllib.request
from collections.abc import Iterator

import pytest
from flask import Flask
from playwright.sync_api import Locator, Page, expect
from sqlalchemy.orm import Session as OrmSession

from tests import factories
from tests.chromium import WIDTHS, OpenPage, judge, serving
from tests.factories import Person
from tests.orgs.test_orgs_in_browser import shoot

pytestmark = pytest.mark.browser


@pytest.fixture
def base(app: Flask, session: OrmSession) -> Iterator[str]:
    with serving(app) as address:
        yield address


def send(base: str, curl: str) -> int:
    """Do what the copied curl command does; returns the status."""
    parts = re.search(r"curl (\S+)/v1/chat.*Bearer (\S+)\".*-d '(.+)'", curl, re.DOTALL)
    assert parts
    headers = {"Authorization": f"Bearer {parts[2]}", "Content-Type": "application/json"}
    body = json.dumps(json.loads(parts[3])).encode()
    request = urllib.request.Request(f"{base}/v1/chat/completions", body, headers)
    try:
        with urllib.request.urlopen(request) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
def test_from_sign_in_to_the_first_call(
    open_page: OpenPage, base: str, session: OrmSession, alice: Person, script: bool
) -> None:
    assert alice.user
    factories.grant(alice.user, 100)
    with open_page(base, script=script, width=390) as page:
        page.context.add_cookies([factories.browser_cookie(alice.user)])
        page.goto("/profile?tab=usage")
        page.get_by_role("link", name="Create an API key").click()
        page.get_by_role("button", name="Create key").click()
        expect(page.get_by_role("heading", name="Waiting for your first call")).to_be_visible()
        curl = page.locator(".code code").first.text_content() or ""
        if script:
            shoot(page, "first-call-waiting")
            judge(page, *WIDTHS)
        assert send(base, curl) == 200
        _see_the_call(page, script)
        page.get_by_role("link", name="Open the call").click()
        expect(page.get_by_role("heading", name="Tokens and price")).to_be_visible()


def test_the_first_call_by_keyboard(
    open_page: OpenPage, base: str, session: OrmSession, alice: Person
) -> None:
    assert alice.user
    factories.grant(alice.user, 100)
    with open_page(base) as page:
        page.context.add_cookies([factories.browser_cookie(alice.user)])
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.goto("/profile?tab=usage")
        _press(page, page.get_by_role("link", name="Create an API key"))
        _reach(page, page.get_by_label("Name", exact=False).first)
        page.keyboard.type("laptop")
        _press(page, page.get_by_role("button", name="Create key"))
        expect(page.get_by_role("heading", name="Waiting for your first call")).to_be_visible()
        _press(page, page.locator("[data-copy]").nth(1))
        copied = page.evaluate("navigator.clipboard.readText()")
        assert send(base, copied) == 200
        expect(page.get_by_role("heading", name="Your first call", exact=True)).to_be_visible()
        _press(page, page.get_by_role("link", name="Open the call"))
        expect(page.get_by_role("heading", name="Tokens and price")).to_be_visible()


def _reach(page: Page, wanted: Locator) -> None:
    """Press Tab until it has the focus, and see that the focus shows."""
    expect(wanted).to_be_visible()
    for _ in range(60):
        page.keyboard.press("Tab")
        if wanted.evaluate("element => element === document.activeElement"):
            assert wanted.evaluate("element => element.matches(':focus-visible')")
            return
    raise AssertionError(f"the keyboard does not reach {wanted}")


def _press(page: Page, wanted: Locator) -> None:
    _reach(page, wanted)
    page.keyboard.press("Enter")


def _see_the_call(page: Page, script: bool) -> None:
    if not script:
        page.get_by_role("link", name="Check now").click()
    expect(page.get_by_role("heading", name="Your first call", exact=True)).to_be_visible()
    expect(page.locator("#first-call")).to_contain_text(re.compile(r"Cost\s*0\.\d+ credits"))
    if script:
        expect(page.get_by_text("export STOA_KEY=")).to_be_visible()
        expect(page.locator("[hx-trigger]")).to_have_count(0)
        shoot(page, "first-call-answered")
        judge(page, *WIDTHS)
