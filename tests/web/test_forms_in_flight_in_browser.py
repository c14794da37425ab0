"""Forms in flight in Chromium, on a slow server: locked, with their own indicator; a double click acts once."""

import time
from collections.abc import Iterator, Sequence

import pytest
from flask import Flask, request
from playwright.sync_api import expect
from sqlalchemy import text
from sqlalchemy.orm import Session as OrmSession

from models.orgs import Org
from tests import factories
from tests.chromium import OpenPage, serving
from tests.factories import Person

pytestmark = pytest.mark.browser

BUDGET = "/profile/budgets/new?target=account&period=day&limit_credits=100&warn_percent=80&kind=hard"
FORMS: Sequence[tuple[str, dict[str, str], str, str, str]] = (
    ("/profile?tab=api-keys", {"name": "laptop"}, "Create key", "session", "sk_live_"),
    (
        "/publishers/new?step=3&publisher=harbor&name=Harbor",
        {},
        "Create publisher",
        "publisher",
        "@harbor created.",
    ),
    ("/orgs/new", {"name": "Umbrella"}, "Create organisation", "org", "Umbrella created."),
    ("/orgs/acme/keys", {"name": "ci"}, "Create key", "session", "sk_live_"),
    ("/orgs/acme/invites/new", {"email": "eve@example.org"}, "Send invitation", "org_invite", "/invites/"),
    (BUDGET, {}, "Create budget", "budget", "Budget created."),
)
"""Page, what to fill in, the button, the table that gets one row, and a text that both responses show."""


@pytest.fixture
def base(app: Flask, session: OrmSession, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server that takes half a second longer to change something."""

    def slow() -> None:
        if request.method == "POST":
            time.sleep(0.5)

    # after the claim: while the first is in flight, the second waits for it
    monkeypatch.setitem(app.before_request_funcs, None, [*app.before_request_funcs[None], slow])
    with serving(app) as address:
        yield address


def count(session: OrmSession, table: str) -> int:
    session.rollback()
    return session.execute(text(f"SELECT count(*) FROM {table}")).scalar_one()


@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
def test_a_double_click_acts_once(
    open_page: OpenPage, base: str, session: OrmSession, acme: Org, alice: Person, script: bool
) -> None:
    assert alice.user
    with open_page(base, script=script) as page:
        page.context.add_cookies([factories.browser_cookie(alice.user)])
        for path, inputs, button, table, shown in FORMS:
            page.goto(path)
            for name, value in inputs.items():
                page.locator(f"form[method=post] [name={name}]").first.fill(value)
            before = count(session, table)
            page.get_by_role("button", name=button, exact=True).dblclick(no_wait_after=True)
            expect(
                page.locator("#main code, #main input, #toasts").filter(has_text=shown).first
            ).to_be_visible()
            assert count(session, table) == before + 1, path


@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
def test_a_form_that_is_too_large_keeps_its_text(
    open_page: OpenPage, base: str, session: OrmSession, alice: Person, script: bool
) -> None:
    assert alice.user
    factories.publisher(alice.user)
    with open_page(base, script=script, expected=(413, 422)) as page:
        page.context.add_cookies([factories.browser_cookie(alice.user)])
        page.goto("/publishers/acme/publish")
        field = page.get_by_label("Definition in JSON")
        field.fill("[ " + "2" * (2 << 20))
        page.get_by_role("button", name="Publish", exact=True).click()
        page.get_by_text("Send at most 2 MB of text").wait_for()
        page.go_back()
        assert field.input_value().startswith("[ 222")
        field.fill("[ " + "1" * 600_000)
        page.get_by_role("button", name="Publish", exact=True).click()
        expect(page.locator("#checked .notice--bad")).to_be_visible()
        assert field.input_value().startswith("[ 111")


def test_a_form_in_flight_shows_it_and_is_unlocked_by_the_response(
    open_page: OpenPage, base: str, session: OrmSession, alice: Person
) -> None:
    assert alice.user
    line = "button => getComputedStyle(button, '::after').content !== 'none' && getComputedStyle(button, '::after').opacity"
    with open_page(base, expected=(422,)) as page:
        page.context.add_cookies([factories.browser_cookie(alice.user)])
        page.goto("/profile?tab=api-keys")
        page.locator("#days").evaluate("field => field.append(new Option('Many', 'many', true, true))")
        button = page.get_by_role("button", name="Create key")
        assert button.evaluate(line) is False
        button.click(no_wait_after=True)
        expect(button).to_have_attribute("aria-busy", "true")
        page.wait_for_function(f"button => ({line})(button) === '1'", arg=button.element_handle())
        expect(page.get_by_text("Enter 1 to 365 days.")).to_be_visible()
        expect(page.locator("[aria-busy=true]")).to_have_count(0)
        page.goto(BUDGET)
        button = page.get_by_role("button", name="Create budget")
        assert button.evaluate("button => (button.click(), button.ariaBusy)") == "true"
        expect(page.get_by_text("Budget created.")).to_be_visible()
        page.go_back()
        expect(page.locator("[aria-busy=true]")).to_have_count(0)
        button.click()
        expect(page.get_by_text("Budget created.")).to_be_visible()
    assert count(session, "budget") == 1
