"""Publishers in Chromium: created with and without JavaScript, edited, transferred; no axe violations."""

import io
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from PIL import Image
from playwright.sync_api import Page, expect
from sqlalchemy.orm import Session as OrmSession

from models.accounts import User
from models.orgs import Org
from models.store import Publisher
from tests import factories
from tests.chromium import WIDTHS, OpenPage, judge, serving
from tests.factories import Person

pytestmark = pytest.mark.browser

GONE = f"/uploads/avatars/{'0' * 64}.webp"


@pytest.fixture
def base(app: Flask) -> Iterator[str]:
    with serving(app) as address:
        yield address


@pytest.fixture
def cookie(session: OrmSession, alice: Person) -> Any:
    return factories.browser_cookie(session.get_one(User, alice.id))


def picture() -> Any:
    buffer = io.BytesIO()
    Image.new("RGB", (60, 40), "teal").save(buffer, "PNG")
    return {"name": "../me.svg", "mimeType": "image/svg+xml", "buffer": buffer.getvalue()}


def fill(page: Page, publisher_id: str) -> None:
    field = page.get_by_label("Publisher id")
    field.fill("")
    field.press_sequentially(publisher_id, delay=5)


def test_axe_finds_nothing(
    open_page: OpenPage,
    base: str,
    cookie: Any,
    acme: Org,
    session: OrmSession,
    alice: Person,
) -> None:
    with open_page(base, width=390, expected=(404, 422)) as page:
        page.context.add_cookies([cookie])
        page.goto("/publishers")
        judge(page, *WIDTHS)
        own = factories.publisher(
            session.get_one(User, alice.id), "harbor", verified=True, bio="We read.", avatar_url=GONE
        )
        factories.publisher(acme, "acme-tools", email="a@example.org")
        factories.agent(own, "reviewer", deprecated_at=factories.now())
        factories.agent_version(own, "gone", "0.1.0", yanked_reason="Broken")
        for address in (
            "/publishers",
            "/publishers/new",
            "/publishers/new?step=2",
            "/publishers/new?step=3&publisher=H&name=",
            "/publishers/new?step=3&publisher=lighthouse&name=Lighthouse",
            "/publishers/harbor/edit",
            "/publishers/acme-tools/edit",
            "/publishers/acme-tools/owner",
            "/publishers/harbor",
            "/publishers/acme-tools",
        ):
            page.goto(address)
            judge(page, *WIDTHS)
        page.goto("/publishers/new?step=3&publisher=lighthouse&name=Lighthouse")
        page.get_by_label("E-mail").fill("nobody")
        page.get_by_role("button", name="Create publisher").click()
        expect(page.locator("[aria-invalid]")).to_be_visible()
        judge(page, *WIDTHS)


def test_a_publisher_is_made_with_script(
    open_page: OpenPage, base: str, cookie: Any, acme: Org, session: OrmSession, alice: Person
) -> None:
    factories.publisher(session.get_one(User, alice.id), "harbor")
    with open_page(base) as page:
        page.context.add_cookies([cookie])
        page.goto(f"/publishers/new?org={acme.id}")
        expect(page.get_by_label("Acme")).to_be_checked()
        page.get_by_role("button", name="Continue").click()
        answer = page.locator("#publisher-check")
        fill(page, "harbor")
        expect(answer).to_have_text("This publisher ID is already taken")
        fill(page, "Har")
        expect(answer).to_contain_text("only lowercase letters")
        fill(page, "lighthouse")
        expect(answer).to_have_text("@lighthouse is available")
        expect(page.get_by_label("Publisher id")).to_be_focused()
        page.get_by_label("Name").fill("Lighthouse")
        page.get_by_role("button", name="Continue").click()
        page.get_by_label("Picture").set_input_files({**picture(), "name": "me.png", "mimeType": "image/png"})
        page.get_by_label("Bio").fill("We shine.")
        page.get_by_role("button", name="Create publisher").click()
        expect(page.get_by_role("heading", name="Lighthouse")).to_be_visible()
        expect(page.get_by_text("We shine.")).to_be_visible()
        width = page.locator(".page-header .avatar img").evaluate(
            "image => image.decode().then(() => image.naturalWidth)"
        )
        assert width == 512
        page.get_by_role("link", name="Edit", exact=True).click()
        page.get_by_role("link", name="Remove from organisation").click()
        dialog = page.get_by_role("dialog")
        expect(dialog).to_be_visible()
        judge(page)
        dialog.get_by_role("button", name="Remove").click()
        expect(page.get_by_text("It belongs to you.")).to_be_visible()
    made = session.get_one(Publisher, "lighthouse")
    assert (made.user_id, made.org_id) == (alice.id, None)


def test_a_publisher_is_made_without_script(
    open_page: OpenPage, base: str, cookie: Any, acme: Org, session: OrmSession
) -> None:
    with open_page(base, width=390, script=False, expected=(422,)) as page:
        page.context.add_cookies([cookie])
        page.goto("/publishers")
        page.get_by_role("link", name="New publisher").click()
        page.get_by_role("button", name="Continue").click()
        page.get_by_label("Publisher id").fill("Har")
        page.get_by_label("Name").fill("Harbor")
        page.get_by_role("button", name="Continue").click()
        expect(page.get_by_label("Publisher id")).to_have_attribute("aria-invalid", "true")
        expect(page.get_by_label("Name")).to_have_value("Harbor")
        page.get_by_label("Publisher id").fill("harbor")
        page.get_by_role("button", name="Continue").click()
        page.get_by_role("link", name="Owner").click()
        page.get_by_label("Acme").check()
        page.get_by_role("button", name="Continue").click()
        expect(page.get_by_label("Publisher id")).to_have_value("harbor")
        page.get_by_role("button", name="Continue").click()
        page.get_by_label("Picture").set_input_files(picture())
        page.get_by_label("E-mail").fill("nobody")
        page.get_by_role("button", name="Create publisher").click()
        expect(page.get_by_label("E-mail")).to_have_attribute("aria-invalid", "true")
        page.get_by_label("E-mail").fill("dock@harbor.example")
        page.get_by_role("button", name="Create publisher").click()
        expect(page.get_by_role("heading", name="Harbor")).to_be_visible()
        page.get_by_role("link", name="Edit", exact=True).click()
        page.get_by_label("Remove the picture").check()
        page.get_by_role("button", name="Save publisher").click()
        expect(page.get_by_label("Remove the picture")).to_be_hidden()
        page.get_by_role("link", name="Remove from organisation").click()
        page.get_by_role("button", name="Remove").click()
        expect(page.get_by_role("button", name="Transfer to organisation")).to_be_visible()
    made = session.get_one(Publisher, "harbor")
    assert (made.org_id, made.avatar_url, made.email) == (None, None, "dock@harbor.example")
