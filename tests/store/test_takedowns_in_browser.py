"""Takedown and ban notices in Chromium: no axe violations at both widths and in both colour schemes."""

from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from sqlalchemy.orm import Session as OrmSession

from models.accounts import User
from tests import factories
from tests.chromium import WIDTHS, OpenPage, judge, serving
from tests.factories import Person
from tests.store.listings import create_agent

pytestmark = pytest.mark.browser

REASON = "It sends the files that it reads to a server of its author, without saying so."


@pytest.fixture
def base(app: Flask) -> Iterator[str]:
    with serving(app) as address:
        yield address


def test_axe_finds_nothing(
    app: Flask, session: OrmSession, open_page: OpenPage, base: str, alice: Person
) -> None:
    owner = session.get_one(User, alice.id)
    create_agent(session, owner)
    other = factories.publisher(owner, "other", name="Other Works")
    factories.agent(other, "planner", data={"spawnableAgents": ["harbor/code-reviewer@2.4.1"]})
    cookie: Any = {
        "name": "next-auth.session-token",
        "value": factories.token(owner, type="web"),
        "domain": "127.0.0.1",
        "path": "/",
    }
    run = app.test_cli_runner().invoke
    with open_page(base, width=390, expected=(403, 410)) as page:
        page.context.add_cookies([cookie])
        run(args=["store", "takedown", "harbor/code-reviewer@2.4.1", "--reason", REASON])
        for address in (
            "/publishers/harbor/agents/code-reviewer/2.4.1",
            "/publishers/harbor/agents/code-reviewer/versions",
            "/publishers/other/agents/planner/1.0.0",
        ):
            page.goto(address)
            judge(page, *WIDTHS)
        run(args=["store", "takedown", "harbor", "--reason", "x" * 500])
        for address in ("/publishers/harbor", "/publishers", "/publishers/harbor/edit"):
            page.goto(address)
            judge(page, *WIDTHS)
        run(args=["accounts", "ban", "alice@example.org", "--reason", "y" * 500])
        page.goto("/profile")
        judge(page, *WIDTHS)
        page.get_by_role("button", name="Sign out").click()
        page.wait_for_url(f"{base}/")
