"""The tab Knowledge in Chromium: accessible at both widths and in both schemes, and the way from a search to a line of a file."""

import pytest
from flask import Flask
from playwright.sync_api import expect
from sqlalchemy.orm import Session as OrmSession

from models.ledger import Account
from tests import factories
from tests.atlas.atlas_rows import indexed, shop_rows
from tests.chromium import OpenPage, judge, serving
from tests.factories import Person

pytestmark = pytest.mark.browser

PAGES = (
    *(f"?diagram={kind}" for kind in ("dependency", "component", "flow", "sequence")),
    "/search?q=amount+in+cents",
    "/search?mode=symbol&q=to_cents",
    "/concept?id=code:shop/money.py",
    "/concept?id=system:shop",
    "/words",
    "/words?concept=code:shop/money.py&symbol=to_cents",
    "/correct?concept=code:shop/money.py",
)


def test_pages_of_the_map_are_accessible_at_both_widths(
    app: Flask, session: OrmSession, alice: Person, open_page: OpenPage
) -> None:
    assert alice.user
    shop = shop_rows(alice.id, Account(user_id=alice.id))
    indexed(session, shop.project)
    with serving(app) as base, open_page(base, width=1440) as page:
        page.context.add_cookies([factories.browser_cookie(alice.user)])
        for path in PAGES:
            page.goto(f"/projects/{shop.project}/knowledge{path}")
            expect(page.get_by_role("heading", level=1)).to_be_visible()
            judge(page, 1440, 390)


@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
def test_a_search_leads_to_the_line(
    app: Flask, session: OrmSession, alice: Person, open_page: OpenPage, script: bool
) -> None:
    assert alice.user
    shop = shop_rows(alice.id, Account(user_id=alice.id))
    indexed(session, shop.project)
    with serving(app) as base, open_page(base, script=script) as page:
        page.context.add_cookies([factories.browser_cookie(alice.user)])
        page.goto(f"/projects/{shop.project}/knowledge")
        page.get_by_role("link", name="Components").click()
        expect(page.get_by_role("heading", name="Systems and their modules in Shop")).to_be_visible()
        page.get_by_label("Knowledge", exact=True).get_by_role("link", name="Search").click()
        page.get_by_label("Search the project").fill("basket total")
        page.get_by_label("Search the project").press("Enter")
        page.get_by_role("link", name="shop/cart/basket.py:").first.click()
        expect(page.get_by_role("heading", name="basket.py")).to_be_visible()
        assert page.url.endswith("#L5")
