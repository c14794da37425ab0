"""The editor of an assistant in Chromium: make one, test it beside the editor, change it, compare the versions, and restore the first."""

import pytest
from flask import Flask
from playwright.sync_api import expect
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from models.assistants import AssistantVersion
from models.turns import Turn
from tests import factories
from tests.chromium import OpenPage, judge, serving
from tests.factories import Person

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
def test_an_assistant_is_made_tested_changed_compared_and_restored(
    app: Flask, session: OrmSession, alice: Person, open_page: OpenPage, script: bool
) -> None:
    assert alice.user
    factories.grant(alice.user, 1000)
    with serving(app) as base, open_page(base, script=script, expected=(422,)) as page:
        page.context.add_cookies([factories.browser_cookie(alice.user)])
        page.goto("/assistants")
        page.get_by_role("main").get_by_role("link", name="New assistant").first.click()
        page.get_by_role("button", name="Save assistant").click()
        expect(page.get_by_role("alert")).to_contain_text("Enter a name.")
        page.locator("#f-name").fill("Writer")
        page.locator("#f-instructions").fill("Write for {{company}}.")
        page.get_by_role("button", name="Add variables").click()
        page.get_by_label("Name", exact=True).nth(1).fill("company")
        page.get_by_label("Default").first.fill("Acme")
        page.locator("#f-model").fill("stoa/demo")
        page.get_by_role("button", name="Save assistant").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Writer")

        page.locator("#f-instructions").fill("Write for {{company}}.\nBe brief.")
        page.get_by_role("button", name="Save and test").click()
        pane = page.locator("#test")
        expect(pane.get_by_role("heading", name="Test of Writer, version 2")).to_be_visible()
        expect(pane.get_by_label("company")).to_have_value("Acme")
        pane.get_by_label("company").fill("Harbor")
        pane.get_by_label("Message").fill("Who are you?")
        pane.get_by_role("button", name="Send").click()
        if script:
            expect(pane.locator(".msg--assistant")).to_contain_text("This is stoa/demo")
            expect(pane.get_by_role("link", name="open the call")).to_be_visible()
            assert page.locator("h1").count() == 1
            pane.get_by_text("Variables").click()
            expect(pane.get_by_label("company")).to_have_value("Harbor")
            judge(page, 390)
            page.get_by_role("link", name="Versions").click()
        else:
            page.wait_for_url("**/threads/**")
            page.get_by_role("main").get_by_text("This is stoa/demo").wait_for()
            page.goto("/assistants")
            page.get_by_role("link", name="Writer", exact=True).click()
            page.get_by_role("link", name="Versions").click()
        page.get_by_role("button", name="Compare").click()
        expect(page.locator("ins, .diff__come")).to_contain_text("Be brief.")
        page.get_by_role("button", name="Restore version 1").click()
        expect(page.locator("#f-instructions")).to_have_value("Write for {{company}}.")
        session.rollback()
        versions = session.scalars(select(AssistantVersion).order_by(AssistantVersion.version)).all()
        assert [each.instructions.count("brief") for each in versions] == [0, 1, 0]
        assert versions[0].variables["company"]["default"] == "Acme"
        assert session.scalars(select(Turn)).one().request["variables"] == {"company": "Harbor"}
