"""The pages of runners in Chromium: accessible at both widths, and one is made and removed, with and without JavaScript."""

import pytest
from flask import Flask
from flask.testing import FlaskClient
from playwright.sync_api import expect
from sqlalchemy import update
from sqlalchemy.orm import Session as OrmSession

from models.core.db import now
from models.runners import Runner, RunnerWork, work_queue
from tests import factories
from tests.chromium import OpenPage, judge, serving
from tests.factories import Person
from tests.runners.runner_calls import made_runner

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
def test_a_runner_is_made_and_removed(
    app: Flask, session: OrmSession, alice: Person, client: FlaskClient, open_page: OpenPage, script: bool
) -> None:
    assert alice.user
    busy = made_runner(alice, client, "workstation-of-the-long-distance-team", "gpu", "linux")
    busy.poll(version="1.2", platform="Linux x86_64, Python 3.11", isolation="bubblewrap, without a network")
    made_runner(alice, client, "old")
    session.execute(update(Runner).where(Runner.name == "old").values(last_seen_at=now().replace(year=2025)))
    lost = RunnerWork(
        account_id=alice.id, kind="workplace", state="lost", error="Its runner did not answer for too long.",
        ended_at=now(), opener_until=now(), request={},
    )  # fmt: skip
    session.add(lost)
    session.commit()
    work_queue.open_work(alice.id, "workplace", {"manifest_hash": None, "limits": {}}, ())
    session.commit()
    work = busy.poll()
    assert busy.about(work, "ack")[0] == 200
    work_queue.ask_action(work["id"], "run", {"command": "make"})
    session.commit()
    with serving(app) as base, open_page(base, width=1440, script=script, expected=(422,)) as page:
        page.context.add_cookies([factories.browser_cookie(alice.user)])
        page.goto("/runners")
        if script:
            judge(page, 1440, 390)
        page.get_by_label("Name", exact=True).fill("old")
        page.get_by_role("button", name="Make runner").click()
        expect(page.get_by_role("main")).to_contain_text("Another runner is named")
        page.get_by_label("Name", exact=True).fill("laptop")
        page.get_by_role("button", name="Make runner").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Start laptop")
        expect(page.get_by_role("main")).to_contain_text("export STOA_RUNNER_TOKEN=sk_live_")
        if script:
            judge(page, 1440, 390)
        page.get_by_role("main").get_by_role("link", name="Runners", exact=True).click()
        page.get_by_role("link", name="Remove laptop").click()
        page.get_by_role("button", name="Remove").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Runners")
        expect(page.get_by_role("table", name="Runners")).not_to_contain_text("laptop")
