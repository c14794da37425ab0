"""Pages below “Ship” in Chromium: accessible at both widths and in both schemes, and a site deployed with a click, with and without script."""

import os
from pathlib import Path

import pytest
from flask import Flask
from playwright.sync_api import expect
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from models.deployments import Deployment
from models.deployments.deployment_setting import setting_of
from models.ledger import Account
from tests import factories
from tests.chromium import OpenPage, judge, serving
from tests.deployments.deployment_calls import SITE, SiteCalls
from tests.deployments.deployment_rows import deployment_rows, program_row
from tests.factories import Person
from tests.projects.project_rows import project_rows

pytestmark = pytest.mark.browser
PAGES = ("", "/settings", "/connections", "/offline", "/credentials/cloudflare/removal")


def test_pages_of_deployments_are_accessible_at_both_widths(
    app: Flask, session: OrmSession, alice: Person, open_page: OpenPage
) -> None:
    assert alice.user
    account = Account(user_id=alice.id)
    found = project_rows(alice.id, account)
    found |= deployment_rows(alice.id, account, found)
    session.commit()
    pictures = os.environ.get("STOA_SCREENSHOTS")
    with serving(app) as base, open_page(base, width=1440) as page:
        page.context.add_cookies([factories.browser_cookie(alice.user)])
        for path in (*PAGES, f"/deployments/{found['deployment_id']}"):
            page.goto(f"/projects/{found['project_id']}/ship{path}")
            expect(page.get_by_role("heading", level=1)).to_be_visible()
            judge(page, 1440, 390)
            if pictures:
                page.screenshot(path=Path(pictures) / f"ship{path.replace('/', '-')}.png", full_page=True)


def test_pages_of_programs_are_accessible_at_both_widths(
    app: Flask, session: OrmSession, alice: Person, open_page: OpenPage
) -> None:
    assert alice.user
    account = Account(user_id=alice.id)
    found = project_rows(alice.id, account)
    found |= deployment_rows(alice.id, account, found)
    given_up = session.scalars(select(Deployment).where(Deployment.adapter == "process")).one()
    live = session.get_one(Deployment, found["deployment_id"])
    shown = program_row(live.project_id, live.workspace_id, live.snapshot_id, state="restarting", error=None)
    live.state = "stopped"
    setting = setting_of(live.project_id, live.workspace_id)
    setting.adapter, setting.start_command, setting.build_hosts = (
        "process",
        "npm start",
        ["registry.npmjs.org"],
    )
    session.add(setting)
    session.commit()
    pictures = os.environ.get("STOA_SCREENSHOTS")
    with serving(app) as base, open_page(base, width=1440) as page:
        page.context.add_cookies([factories.browser_cookie(alice.user)])
        for path, text in (
            ("", "It is started again for the 3rd time in a row"),
            ("/settings", "Health path"),
            (f"/deployments/{shown.id}", "Output of the program"),
            (f"/deployments/{given_up.id}", "No module named"),
        ):
            page.goto(f"/projects/{found['project_id']}/ship{path}?workspace={live.workspace_id}")
            expect(page.get_by_role("main")).to_contain_text(text)
            judge(page, 1440, 390)
            if pictures:
                name = path.partition("/deployments/")[2][-4:] or path.strip("/") or "ship"
                page.screenshot(path=Path(pictures) / f"program-{name}.png", full_page=True)
                page.set_viewport_size({"width": 390, "height": 900})
                page.screenshot(path=Path(pictures) / f"program-{name}-390.png", full_page=True)
                page.set_viewport_size({"width": 1440, "height": 900})


@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
def test_a_site_is_deployed_and_rolled_back_by_clicks(
    app: Flask, session: OrmSession, pier: SiteCalls, alice: Person, open_page: OpenPage, script: bool
) -> None:
    assert alice.user
    first = pier.push(SITE)
    pier.push(SITE | {"index.html": "two"}, [first])
    with serving(app) as base, open_page(base, script=script) as page:
        page.context.add_cookies([factories.browser_cookie(alice.user)])
        page.goto(f"/projects/{pier.project}/ship")
        main = page.get_by_role("main")
        main.get_by_label("Snapshot", exact=True).select_option(first)
        main.get_by_role("button", name="Deploy").click()
        expect(main).to_contain_text("Healthy")
        main.get_by_role("button", name="Deploy").click()
        expect(main).to_contain_text("The same snapshot")
        main.get_by_role("button", name="Release again").click()
        expect(main).to_contain_text("1 snapshot behind")
        expect(main).to_contain_text("Rolled back")
