"""A thread in Chromium: an answer that streams, reloads, a second tab, stopping, files, versions, keys, and without JavaScript."""

import re
from collections.abc import Iterator

import pytest
from flask import Flask
from playwright.sync_api import Page, expect
from sqlalchemy.orm import Session

from models.assistants import create_assistant
from models.core.db import db, extension
from models.gateway.demo_model import DemoModel
from models.ledger import Account
from tests import factories
from tests.chromium import WIDTHS, OpenPage, judge, serving
from tests.factories import Person, browser_cookie

pytestmark = pytest.mark.browser

STORY = "Tell me a long story about stoas"
END = "releases the rest of the hold."
"""How the demo model ends it."""


@pytest.fixture
def base(app: Flask, session: Session, alice: Person, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server whose demo model writes slowly enough to be watched."""
    factories.grant(alice.user, 100_000)
    session.commit()
    monkeypatch.setattr(app.extensions["gateway"].routes.demo, "upstream", DemoModel(0.06))
    with serving(app) as address:
        yield address
        assert app.extensions["turns"].idle(30)


def begin(page: Page, alice: Person, text: str) -> None:
    page.context.add_cookies([browser_cookie(alice.user)])
    page.goto("/threads")
    page.get_by_label("Model").fill("stoa/demo")
    page.locator("#content").fill(text)


def test_an_answer_streams_and_is_seen_everywhere(open_page: OpenPage, base: str, alice: Person) -> None:
    with open_page(base) as page:
        begin(page, alice, STORY)
        judge(page, *WIDTHS)
        page.locator("#content").press("Enter")
        answer = page.locator(".msg--assistant")
        expect(answer).to_contain_text("This is stoa/demo")
        expect(answer).to_have_attribute("aria-busy", "true")
        expect(page.get_by_role("button", name="Stop", exact=True)).to_be_visible()
        other = page.context.new_page()
        other.goto(page.url)
        page.reload()
        for each in (page, other):
            expect(each.locator(".msg--assistant")).to_contain_text("This is stoa/demo, answering")
            expect(each.locator(".msg--assistant")).to_contain_text(END)
            expect(each.locator(".msg--assistant")).not_to_have_attribute("aria-busy", "true")
            expect(each.get_by_role("button", name="Stop", exact=True)).to_be_hidden()
            expect(each.locator("#thread-total")).not_to_have_text("0 credits")
        expect(page.get_by_role("status").filter(has_text="Answer finished")).to_have_count(1)
        other.close()
        # what is sent meanwhile waits
        page.locator("#content").fill("And a temple?")
        page.keyboard.press("Enter")
        expect(page.locator(".msg--assistant")).to_have_count(2)
        page.locator("#content").fill("And a forum?")
        page.keyboard.press("Enter")
        expect(page.get_by_role("list", name="Waiting messages")).to_contain_text("And a forum?")
        expect(page.locator(".msg--assistant")).to_have_count(3)
        expect(page.locator(".msg--assistant").last).not_to_have_attribute("aria-busy", "true")
        expect(page.get_by_role("list", name="Waiting messages")).to_have_count(0)
        expect(page.locator("#content")).to_be_focused()
        judge(page, *WIDTHS)


DROP = """() => {
  window.said = [];
  const note = document.querySelector("[data-file-names]");
  new MutationObserver(() => window.said.push(note.textContent)).observe(note, { childList: true, characterData: true, subtree: true });
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File(["Columns stand in rows. ".repeat(9000)], "note.txt", { type: "text/plain" }));
  for (const type of ["dragover", "drop"]) document.querySelector("#messages").dispatchEvent(new DragEvent(type, { dataTransfer, bubbles: true, cancelable: true }));
}"""


def test_a_message_stops_the_answer_and_files_are_dropped(
    open_page: OpenPage, base: str, alice: Person
) -> None:
    fields = {
        "name": "Writer",
        "instructions": "For {{company}}.",
        "variables": {"company": {"type": "string", "default": "Acme"}},
    }
    create_assistant(alice.id, Account(user_id=alice.id), fields, extension("settings"))
    db.session.commit()
    with open_page(base) as page:
        begin(page, alice, STORY)
        page.keyboard.press("Enter")
        answers, interrupt = page.locator(".msg--assistant"), page.get_by_role("button", name="Stop and send")
        expect(answers).to_contain_text("This is")
        expect(interrupt).to_be_hidden()
        page.locator("#content").fill("And a temple?")
        expect(interrupt).to_be_visible()
        page.keyboard.press("Control+Enter")
        expect(answers).to_have_count(2)
        expect(answers.last).to_contain_text("And a temple?")
        expect(answers.last).not_to_have_attribute("aria-busy", "true")
        expect(answers.first).not_to_contain_text(END)
        page.get_by_label("Assistant").select_option("Writer")
        expect(page.get_by_label("company")).to_have_value("Acme")
        page.evaluate(DROP)
        expect(page.get_by_role("list", name="Files of this thread")).to_contain_text("note.txt")
        assert "Uploading 100 %: note.txt" in page.evaluate("said")


def test_stopping_editing_and_versions_by_keyboard(open_page: OpenPage, base: str, alice: Person) -> None:
    with open_page(base) as page:
        begin(page, alice, STORY)
        page.keyboard.press("Enter")
        expect(page.locator(".msg--assistant")).to_contain_text("This is")
        page.keyboard.press("Escape")
        expect(page.get_by_text("Stopped", exact=True).first).to_be_visible()
        expect(page.get_by_role("button", name="Stop", exact=True)).to_be_hidden()
        page.locator("#thread-h").click()
        page.keyboard.press("?")
        expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
        judge(page)
        page.keyboard.press("Escape")
        page.keyboard.press("e")
        edit = page.locator("[data-edit] textarea")
        expect(edit).to_be_focused()
        edit.fill("What is a temple?")
        page.keyboard.press("Enter")
        expect(page.locator(".msg--assistant")).to_contain_text("What is a temple?")
        expect(page.locator(".msg--assistant")).not_to_have_attribute("aria-busy", "true")
        expect(page.locator(".msg__branch")).to_contain_text("2 / 2")
        page.get_by_role("button", name="Previous version").click()
        expect(page.locator(".msg--user")).to_contain_text(STORY)
        expect(page.locator(".msg__branch")).to_contain_text("1 / 2")
        page.keyboard.press("/")
        expect(page.get_by_label("Search threads")).to_be_focused()
        page.keyboard.type("temple")
        expect(page.locator("#thread-rows mark")).to_have_text(re.compile("temple"))
        page.get_by_label("Thread menu").click()
        page.get_by_role("link", name="Share").click()
        page.get_by_role("button", name="Create link").click()
        link = page.get_by_role("list", name="Links that work").locator("code")
        expect(link).to_contain_text("/shared/threads/")
        judge(page)
        shared = re.sub(r"^https?://[^/]+", "", link.inner_text())
        page.goto(shared)
        judge(page, *WIDTHS)
        page.get_by_role("button", name="Continue as my copy").click()
        expect(page.get_by_text("This is your copy")).to_be_visible()


def test_without_javascript(open_page: OpenPage, base: str, alice: Person) -> None:
    with open_page(base, width=390, script=False) as page:
        page.context.add_cookies([browser_cookie(alice.user)])
        page.goto("/threads")
        page.get_by_role("link", name="New thread").click()
        page.get_by_label("Model").fill("stoa/demo")
        page.locator("#content").fill(STORY)
        page.get_by_role("button", name="Send").click()
        expect(page.get_by_role("button", name="Stop", exact=True)).to_be_visible()
        page.get_by_role("link", name="Write meanwhile").click()
        page.locator("#content").fill("And a temple?")
        page.get_by_role("button", name="Stop and send").click()
        expect(page.locator(".msg--assistant").last).to_contain_text("And a temple?")
        expect(page.locator(".msg--assistant").first).not_to_contain_text(END)
        expect(page.get_by_role("button", name="Stop", exact=True)).to_be_hidden()
        page.get_by_text("Edit", exact=True).last.click()
        page.locator("[data-edit] textarea").last.fill("What is a forum?")
        page.get_by_role("button", name="Send as new version").last.click()
        expect(page.locator(".msg--assistant").last).to_contain_text("What is a forum?")
        page.get_by_role("button", name="Previous version").click()
        expect(page.locator(".msg__branch")).to_contain_text("1 / 2")
        page.get_by_role("link", name="All threads").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Threads")
