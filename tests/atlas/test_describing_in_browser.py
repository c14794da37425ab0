"""Describing and correcting parts of a project in Chromium, with script and without: the demo model writes, the panel shows it by itself."""

import pytest
from flask import Flask
from playwright.sync_api import expect
from sqlalchemy.orm import Session as OrmSession

from tests import factories
from tests.atlas.atlas_rows import Shop
from tests.chromium import OpenPage, judge, serving
from tests.factories import Person

pytestmark = pytest.mark.browser

SAID = "shop/money.py defines CENTS, to_cents."


@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
def test_a_model_describes_and_a_person_corrects(
    app: Flask, session: OrmSession, alice: Person, shop: Shop, open_page: OpenPage, script: bool
) -> None:
    assert alice.user
    factories.grant(alice.user, 1000)
    session.commit()
    with serving(app) as base, open_page(base, script=script) as page:
        page.context.add_cookies([factories.browser_cookie(alice.user)])
        page.goto(f"/projects/{shop.project}/knowledge/concept?id=code:shop/money.py")
        page.get_by_label("Model").fill("stoa/demo")
        page.get_by_role("button", name="Describe").click()
        if not script:
            expect(page.get_by_role("heading", name="Description of Shop")).to_be_visible()
            if page.get_by_role("link", name="Look again").is_visible():
                page.wait_for_timeout(3_000)
                page.reload()
        expect(page.get_by_text(SAID)).to_be_visible()
        expect(page.get_by_role("link", name="money.py:5")).to_be_visible()
        if script:
            judge(page, 1440, 390)
        page.get_by_role("link", name="Correct it by hand").click()
        page.get_by_label("Description").fill("Amounts of money.")
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_role("button", name="Undo: Description Amounts of money.")).to_be_visible()
        if script:
            judge(page, 1440, 390)
        page.get_by_role("link", name="Back to the part").click()
        expect(page.get_by_text("Amounts of money.").first).to_be_visible()
        page.get_by_text("What stoa/demo says").click()
        expect(page.get_by_text(SAID)).to_be_visible()
