"""Every page, filled and empty, from the map of URLs: status, title and heading; and a part of them in Chromium.

`python -m tests.proof pages` opens all of them in Chromium (`ALL_PAGES`: a first and a last number, such as `40:80`), and stores
screenshots in STOA_SCREENSHOTS if set.
"""

import os
import re
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import Page

from models.orgs import Org
from tests import factories
from tests.billing.conftest import desk
from tests.billing.stage import Desk
from tests.chromium import OpenPage, judge, serving
from tests.factories import Person
from tests.web import page_walk, page_world
from tests.web.page_walk import Visit
from tests.web.page_world import PageWorld

__all__ = ["desk"]

ALL_PAGES, SCREENSHOTS = "STOA_ALL_PAGES", "STOA_SCREENSHOTS"
SAMPLE = 29
"""Without `ALL_PAGES`, each page whose number in the list is divisible by this is opened."""
TITLE = re.compile(r"[^·|?]+( · [^·|?]+)* · Stoa")
FIXED = """() => [...document.querySelectorAll("body *")].filter((each) =>
  getComputedStyle(each).position === "fixed" && each.checkVisibility()).map((each) => each.className)"""
STORE_TITLE = re.compile(r"Agent Store – \d+ Agents? Available \| Stoa")
"""By the contract (section 6.1)."""


@pytest.fixture
def world(desk: Desk, alice: Person, bob: Person, carol: Person, acme: Org) -> PageWorld:
    cast = {"alice": alice, "bob": bob, "carol": carol}
    people: dict[str, Any] = {name: who.user for name, who in cast.items()}
    return page_world.build(desk, people | {"root": factories.user("root")}, acme)


@pytest.mark.browser
@pytest.mark.timeout(7200)
def test_every_page(app: Flask, desk: Desk, world: PageWorld, open_page: OpenPage) -> None:
    """One test, because its data take longest."""
    every = page_walk.visits(app, world)
    wrong = _wrong_titles(page_walk.one_state_each(every), app, world)
    assert not wrong, "\n".join(map(str, wrong))
    first, between, last = os.environ.get(ALL_PAGES, "").partition(":")
    chosen = every[int(first or 0) : int(last or len(every))] if between else every[::SAMPLE]
    problems = []
    with serving(app) as base:
        desk.configure(stoa_base_url=base)
        for visit in chosen:
            try:
                with open_page(base, width=1440, expected=(visit.status,)) as page:
                    _become(page, world, visit.who)
                    _look(page, visit)
            except (AssertionError, pytest.fail.Exception, PlaywrightError) as problem:
                problems.append(f"{visit.who} {visit.path}: {problem}")
    assert not problems, "\n" + "\n".join(problems)


def _wrong_titles(chosen: list[Visit], app: Flask, world: PageWorld) -> list[tuple[str, str, int, str]]:
    """Pages with another status, title or number of headings than they should have."""
    clients = _clients(app, world)
    names = {"acme": "Acme", "demo-quarry": "Quarry Data Co-operative", "newco": "Newco"}
    found = []
    for visit in chosen:
        answer = clients[visit.who].get(visit.path, headers={"Sec-Fetch-Site": "same-origin"})
        title = (re.findall(r"<title>(.*?)</title>", answer.text) or [""])[0]
        named = re.match(r"/orgs/([^/]+)/", visit.path)
        form = STORE_TITLE if visit.path.startswith("/store") else TITLE
        fine = (
            answer.status_code == visit.status
            and form.fullmatch(title)
            and len(re.findall(r"<h1\b", answer.text)) == 1
            and (not named or named[1] not in names or title.endswith(f" · {names[named[1]]} · Stoa"))
        )
        if not fine:
            found.append((visit.who, visit.path, answer.status_code, title))
    return found


def _clients(app: Flask, world: PageWorld) -> dict[str, FlaskClient]:
    clients = {"anonymous": app.test_client()}
    for name, user in world.people.items():
        clients[name] = app.test_client()
        clients[name].set_cookie("next-auth.session-token", factories.token(user, type="web"))
    return clients


def _become(page: Page, world: PageWorld, who: str) -> None:
    if who in world.people:
        page.context.add_cookies([factories.browser_cookie(world.people[who])])


def _look(page: Page, visit: Visit) -> None:
    answer = page.goto(visit.path)
    assert answer is not None
    assert answer.status == visit.status, answer.status
    page.evaluate("document.querySelectorAll('main details').forEach((each) => { each.open = true })")
    if os.environ.get(SCREENSHOTS):
        _photograph(page, visit)
    page.emulate_media(media="print")
    assert page.evaluate(FIXED) == [], "printed over the content of every sheet"
    page.emulate_media(media="screen")
    judge(page, 1440, 390, 320)


def _photograph(page: Page, visit: Visit) -> None:
    folder = Path(os.environ[SCREENSHOTS])
    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^a-z0-9]+", "-", f"{visit.page}-{visit.who}".lower()).strip("-")
    for width in (1440, 390):
        page.set_viewport_size({"width": width, "height": 900})
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            page.screenshot(path=folder / f"{name}-{width}-{scheme}.png", full_page=True)
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": 1440, "height": 900})
