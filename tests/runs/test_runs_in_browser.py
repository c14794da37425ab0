"""The pages of runs in Chromium: accessibility, htmx filters and calls, polling, and all without JavaScript."""

import re
from collections.abc import Iterator
from datetime import timedelta

import pytest
from flask import Flask
from playwright.sync_api import Page, expect
from sqlalchemy.orm import Session as OrmSession

from models.runs import AgentRun
from models.runs.run_share import share_run
from tests import factories
from tests.chromium import WIDTHS, OpenPage, judge, serving
from tests.factories import Person, now

pytestmark = pytest.mark.browser


@pytest.fixture
def base(app: Flask) -> Iterator[str]:
    with serving(app) as address:
        yield address


def signed_in(page: Page, session: OrmSession, who: Person) -> Page:
    page.context.add_cookies([factories.browser_cookie(who.user)])
    return page


@pytest.fixture
def run(session: OrmSession, alice: Person) -> AgentRun:
    """A finished run with a spawned run, a failed call and a call with stored messages, after thirty older runs."""
    begun = now() - timedelta(minutes=10)
    ended = {"status": "completed", "completed_at": begun + timedelta(seconds=40)}
    run = factories.run(alice.user, "acme/reviewer@2.4.1", created_at=begun, **ended)
    child = factories.run(alice.user, "acme/helper@1.0.0", parent=run, created_at=begun, **ended)
    message = factories.message(
        alice.user,
        7,
        request=[
            {"role": "system", "content": "Be brief. " * 300},
            {
                "role": "assistant",
                "tool_calls": [{"function": {"name": "read", "arguments": '{"path":"a"}'}}],
            },
            {"role": "user", "content": "Why?"},
        ],
        response={
            "content": "Because of the " + "very " * 100 + "long word " + "x" * 400,
            "tool_calls": [{"id": "a", "function": {"name": "read", "arguments": '{"path":"b"}'}}],
        },
        reasoning_text="Think.",
    )
    times = {"started_at": begun, "finished_at": begun + timedelta(seconds=5), "latency_ms": 5000}
    factories.call(
        alice.user, message=message, run_id=run.id, ttft_ms=900, price={"input": "3", "output": "15"},
        request_id="opened", output_tokens=90, **times,
    )  # fmt: skip
    factories.call(
        alice.user, run_id=child.id, state="failed", error="timed out after a long while", usage_source=None,
        http_status=504, request_id="broken", **times,
    )  # fmt: skip
    factories.step(run, 1, created_at=begun, completed_at=begun + timedelta(seconds=20))
    for number in range(30):
        at = begun - timedelta(hours=number + 1)
        factories.run(
            alice.user, f"older-{number:02}", created_at=at, status="failed",
            completed_at=at + timedelta(seconds=3), error_message="No luck " * 40,
        )  # fmt: skip
    return run


def test_axe_finds_nothing(
    open_page: OpenPage, base: str, session: OrmSession, alice: Person, run: AgentRun
) -> None:
    busy = factories.run(alice.user, "busy-agent-" + "with-a-long-name-" * 12)
    factories.hold(alice.user, 40, run_id=busy.id)
    factories.run(alice.user, "quiet", created_at=now() - timedelta(days=3))
    assert alice.user is not None
    share = share_run(run, alice.user, "week", with_messages=True)
    session.commit()
    with open_page(base, width=390, expected=(422,)) as page:
        signed_in(page, session, alice)
        for path in (
            "/runs",
            "/runs?agent=zzz",
            "/runs?when=custom&from=2026-02-20&to=2026-02-01&spawned=1",
            f"/runs/{run.id}",
            f"/runs/{busy.id}",
            f"/runs/{run.id}/calls/opened",
            f"/runs/{run.id}/calls/opened/tools/0",
            f"/runs/{run.id}/search?q=because",
            f"/shared/{share.token}",
        ):
            page.goto(path)
            page.evaluate("document.querySelectorAll('main details').forEach((each) => { each.open = true })")
            judge(page, *WIDTHS)


def test_long_words_widen_nothing(open_page: OpenPage, base: str, session: OrmSession, alice: Person) -> None:
    word = "x" * 300
    run = factories.run(alice.user, f"p{word[:100]}/{word}@{word[:60]}", status="failed", error_message=word)
    child = factories.run(alice.user, word, parent=run, completed_at=now())
    messages = [
        {"role": word, "name": word, "content": word},
        {"role": "user", "content": [{"type": word, "text": word}]},
    ]
    message = factories.message(alice.user, request=messages, response=word)
    factories.call(
        alice.user, message=message, run_id=child.id, request_id="c", model=word, error=word, provider=word
    )  # fmt: skip
    factories.step(child, 1, error_message=word)
    wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    cut = "[...document.querySelectorAll('.table-wrap')].some((each) => each.scrollWidth > each.clientWidth)"
    with open_page(base) as page:
        signed_in(page, session, alice)
        for path in (
            "/runs?spawned=1",
            f"/runs/{run.id}",
            f"/runs/{child.id}",
            f"/runs/{child.id}/calls/c",
            "/runs",
        ):
            page.goto(path)
            for width in WIDTHS:
                page.set_viewport_size({"width": width, "height": 900})
                assert page.evaluate(wide) <= 0, (path, width)
                assert path != "/runs" or not page.evaluate(cut), width


def test_axe_finds_nothing_before_the_first_run(
    open_page: OpenPage, base: str, session: OrmSession, alice: Person
) -> None:
    with open_page(base) as page:
        signed_in(page, session, alice).goto("/runs")
        expect(page.get_by_role("heading", name="No runs yet")).to_be_visible()
        judge(page)


def test_the_list_narrows_and_grows_without_leaving_the_page(
    open_page: OpenPage, base: str, session: OrmSession, alice: Person, run: AgentRun
) -> None:
    with open_page(base) as page:
        signed_in(page, session, alice).goto("/runs")
        page.evaluate("window.stayed = true")
        rows = page.locator("#run-rows tr")
        expect(rows).to_have_count(25)
        page.get_by_role("link", name="Load more").click()
        expect(rows).to_have_count(31)
        expect(page.get_by_role("link", name="Load more")).to_have_count(0)
        page.get_by_label("Agent", exact=True).press_sequentially("revi")
        expect(rows).to_have_count(1)
        expect(page).to_have_url(re.compile(r"/runs\?agent=revi$"))
        page.get_by_label("Status").select_option("failed")
        expect(page.get_by_text("No matching runs")).to_be_visible()
        page.get_by_label("Agent", exact=True).fill("")
        page.get_by_label("Status").select_option("completed")
        expect(rows).to_have_count(1)
        expect(page.get_by_label("From")).to_be_hidden()
        page.get_by_label("Started").select_option("custom")
        page.get_by_label("From").fill((now() - timedelta(days=400)).date().isoformat())
        expect(page).to_have_url(re.compile("status=completed&when=custom&from="))
        assert page.evaluate("window.stayed") is True
        page.go_back()
        expect(rows).to_have_count(1)


def test_a_run_is_read_with_the_keyboard_in_the_panel(
    open_page: OpenPage, base: str, session: OrmSession, alice: Person, run: AgentRun
) -> None:
    with open_page(base) as page:
        signed_in(page, session, alice).goto("/runs")
        page.evaluate("window.stayed = true")
        panel = page.get_by_role("complementary", name="Run")
        row = page.locator("#run-rows").get_by_role("link", name="reviewer")
        row.focus()
        page.keyboard.press("Enter")
        expect(panel.get_by_role("heading", level=1)).to_be_focused()
        expect(page).to_have_url(re.compile(f"/runs/{run.id}$"))
        expect(row).to_have_attribute("aria-current", "true")
        judge(page)
        page.keyboard.press("Escape")
        expect(panel).to_be_hidden()
        expect(row).to_be_focused()
        expect(page).to_have_url(re.compile("/runs$"))
        page.locator("#run-rows tr").nth(1).click(position={"x": 500, "y": 10})  # anywhere in the row
        expect(panel.get_by_role("heading", level=1)).to_contain_text("older-00")
        page.go_back()
        expect(panel).to_be_hidden()
        assert page.evaluate("window.stayed") is True

        page.goto(f"/runs/{run.id}")
        page.evaluate("window.stayed = true")
        bars = page.locator("tr", has=page.locator("#c-opened")).locator(".bars")
        bars.scroll_into_view_if_needed()
        box = bars.bounding_box()
        assert box
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)  # a bar opens its call
        panel = page.get_by_role("complementary", name="Call")
        expect(panel.get_by_role("heading", name="stoa/demo reported by the provider")).to_be_focused()
        expect(page).to_have_url(re.compile("/calls/opened$"))
        expect(page.locator("#c-opened")).to_have_attribute("aria-current", "true")
        page.locator("#t-opened-0").press("Enter")
        expect(panel.get_by_role("heading", name="read")).to_be_focused()
        judge(page)
        page.keyboard.press("Escape")
        expect(page.locator("#t-opened-0")).to_be_focused()
        fold = page.get_by_role("button", name="Rows below Step 1")
        fold.press("Enter")
        expect(fold).to_have_attribute("aria-expanded", "false")
        expect(page.locator("#c-opened")).to_be_hidden()
        fold.press("Space")
        expect(page.locator("#t-opened-0")).to_be_visible()
        page.get_by_role("button", name="Good run").click()
        expect(page.get_by_role("button", name="Good run")).to_have_attribute("aria-pressed", "true")
        page.get_by_role("link", name="Open the failing call").click()
        expect(panel.get_by_text("timed out after a long while").first).to_be_visible()
        assert page.evaluate("window.stayed") is True
        page.reload()
        expect(page.get_by_role("heading", level=1)).to_contain_text("stoa/demo")


def test_a_running_run_follows_itself_to_its_end(
    open_page: OpenPage, base: str, session: OrmSession, alice: Person
) -> None:
    busy = factories.run(alice.user, "busy")
    factories.call(alice.user, run_id=busy.id, request_id="first")
    with open_page(base) as page, open_page(base) as listing:
        signed_in(page, session, alice).goto(f"/runs/{busy.id}")
        signed_in(listing, session, alice).goto("/runs")
        page.locator("#c-first").click()
        expect(page.get_by_role("heading", name="Ledger entries")).to_be_visible()
        page.get_by_label("Tags, separated by commas").fill("half writ")
        expect(listing.locator("#run-rows")).to_contain_text("Running")
        message = factories.message(alice.user, 12)
        factories.call(alice.user, message=message, run_id=busy.id, request_id="second")
        expect(page.locator("#c-second")).to_be_visible()
        expect(page.get_by_label("Tags, separated by commas")).to_have_value("half writ")
        expect(page.get_by_role("heading", name="Ledger entries")).to_be_visible()
        busy.status, busy.completed_at = "completed", now()
        session.commit()
        expect(page.get_by_role("heading", level=1)).to_contain_text("Completed")
        expect(page.locator("#run")).not_to_have_attribute("hx-trigger", re.compile("every"))
        expect(page.get_by_role("heading", name="Ledger entries")).to_be_visible()
        expect(listing.locator("#run-rows")).to_contain_text("Completed")
        expect(listing.locator("#run-rows")).to_contain_text("12")
        requests: list[str] = []
        for each in (page, listing):
            each.on("request", lambda request: requests.append(request.url))
        page.wait_for_timeout(4500)
        assert requests == []


def test_everything_works_without_script(
    open_page: OpenPage, base: str, session: OrmSession, alice: Person, run: AgentRun
) -> None:
    with open_page(base, script=False) as page:
        signed_in(page, session, alice).goto("/runs")
        page.get_by_role("link", name="Load more").click()
        expect(page.get_by_role("link", name="older-29")).to_be_visible()
        page.get_by_role("link", name="Back to the newest").click()
        page.get_by_label("Agent", exact=True).fill("revi")
        page.get_by_label("Status").select_option("completed")
        page.get_by_role("button", name="Show runs").click()
        page.get_by_role("link", name="reviewer").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("reviewer")
        expect(page.get_by_role("button", name="Rows below Step 1")).to_be_hidden()
        page.get_by_role("button", name="Bad run").click()
        expect(page.get_by_role("button", name="Bad run")).to_have_attribute("aria-pressed", "true")
        page.get_by_role("button", name="Create link").click()
        expect(page.get_by_role("button", name="Revoke link")).to_be_visible()
        page.locator("#c-opened").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("stoa/demo")
        expect(page.get_by_text("Because of the")).to_be_visible()
        page.get_by_role("link", name="reviewer").click()
        page.locator("#r-" + _child(session, run)).click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("helper")
        page.get_by_role("navigation", name="Path").get_by_role("link", name="Runs").click()
        expect(page).to_have_url(re.compile("/runs$"))


def _child(session: OrmSession, run: AgentRun) -> str:
    from sqlalchemy import select

    return str(session.scalars(select(AgentRun.id).where(AgentRun.parent_run_id == run.id)).one())
